"""Whether the cluster is one that the program can be brought up on: rights, DNS, machines."""

from collections.abc import Iterator, Mapping
from typing import Any

from kubernetes.client import ApiClient, AuthorizationV1Api
from kubernetes.client.exceptions import ApiException

from config.quantities import size
from config.settings import Node
from ops.cluster import Cluster
from ops.doctor_checks import Result, fail, ok, told, warn

OLDEST, WRITTEN_FOR = (1, 29), (1, 36)
"""Kubernetes with sidecars on by default (KEP-753), and the one that docs/house.md installs."""
STRANGERS = {
    "system:anonymous": ["system:unauthenticated"],
    "system:serviceaccount:default:default": [
        "system:serviceaccounts",
        "system:serviceaccounts:default",
        "system:authenticated",
    ],
}
"""Who must not read Secrets, each with the groups that Kubernetes puts it in."""
EVERYTHING = {"verb": "*", "group": "*", "resource": "*"}
SECRETS = {"verb": "list", "resource": "secrets"}
SERVICE_NAME = "kubernetes.io/service-name"
HOSTNAME = "kubernetes.io/hostname"
NO_ADDRESSES = "node.kubernetes.io/exclude-from-external-load-balancers"
MASK = "FELIX_IPTABLESMARKMASK"
CALICO_DEFAULT = 0xFFFF0000
OTHERS = 0x00FF0000 | 0x0000C000
"""Bits of the packet mark: Calico's own choice, and what Tailscale and kube-proxy use."""


def version(cluster: Cluster) -> Result:
    """Look at the API server's version."""
    found = cluster.ask("/version")
    number = (int(found["major"]), int(found["minor"].rstrip("+")))
    text = f"Kubernetes {found['gitVersion']}"
    if number < OLDEST:
        return fail(f"{text}: must be 1.29 or newer, for native sidecars", "a newer channel")
    if number != WRITTEN_FOR:
        return warn(f"{text}: nothing here was tried on another than 1.36")
    return ok(text)


def rights(api: ApiClient) -> Result:
    """Ask whether the kubeconfig's account may do everything."""
    reviews: Any = AuthorizationV1Api(api)
    spec = {"resourceAttributes": EVERYTHING}
    try:
        answer = reviews.create_self_subject_access_review({"spec": spec})
    except ApiException as error:
        if error.status != 401:
            raise
        return fail("who asks is not known to the cluster", "take the kubeconfig anew")
    if answer.status.allowed:
        return ok("this account may do everything")
    return fail("this account may not do everything", "use the kubeconfig of microk8s config")


def rbac(api: ApiClient) -> Result:
    """Ask the server's own authorizer about strangers, whom AlwaysAllow would let in."""
    reviews: Any = AuthorizationV1Api(api)

    def trusted() -> Iterator[str]:
        for who, groups in STRANGERS.items():
            spec = {"user": who, "groups": groups, "resourceAttributes": SECRETS}
            if reviews.create_subject_access_review({"spec": spec}).status.allowed:
                yield f"{who} may read every Secret"

    do = "on the house: sudo microk8s enable rbac; if it is: kubectl get clusterrolebindings"
    return told(trusted(), do, "strangers may not read Secrets")


def dns(cluster: Cluster) -> Result:
    """Look for the cluster's DNS and whether a server of it is ready."""
    do = "on the house: sudo microk8s enable dns"
    if not (service := cluster.ask("/api/v1/namespaces/kube-system/services/kube-dns")):
        return fail("there is no Service kube-system/kube-dns", do)
    slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
    found = cluster.ask(slices, labelSelector=f"{SERVICE_NAME}=kube-dns")["items"]
    ready = [
        address
        for one in found
        for endpoint in one["endpoints"] or []
        if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint["addresses"]
    ]
    if not ready:
        logs = "kubectl -n kube-system logs -l k8s-app=kube-dns"
        return fail("kube-system/kube-dns has no server that is ready", logs)
    return ok(f"{len(ready)} ready behind {service['spec']['clusterIP']}")


def marks(cluster: Cluster) -> Result:
    """Look whether Calico uses bits of the packet mark that others do."""
    calico = cluster.ask("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node")
    if calico is None:
        return ok("no Calico here")
    (variables,) = [
        {one["name"]: one.get("value") for one in container.get("env") or []}
        for container in calico["spec"]["template"]["spec"]["containers"]
        if container["name"] == "calico-node"
    ]
    mask = int(variables.get(MASK) or str(CALICO_DEFAULT), 0)
    if mask & OTHERS:
        return warn(
            f"Calico uses bits of the packet mark that Tailscale or kube-proxy use ({mask:#010x}):"
            " the tailnet port may not work, or pass by network policies",
            f"{MASK}=0xff000000 for calico-node",
        )
    return ok(f"Calico keeps to {mask:#010x}")


def nodes(cluster: Cluster, wanted: Mapping[str, Node]) -> Result:
    """Compare the machines with the stack file."""
    there = {one["metadata"]["name"]: one for one in cluster.ask("/api/v1/nodes")["items"]}
    problems = [
        problem
        for name, node in wanted.items()
        for problem in (
            _differences(there[name], node)
            if name in there
            else [f"there is no node {name}, but {', '.join(there) or 'none'}"]
        )
    ]
    do = "correct homelab:nodes in the stack file, or the node"
    return told(problems, do, f"{', '.join(wanted)} as in the stack file")


def _differences(live: Mapping[str, Any], node: Node) -> Iterator[str]:
    metadata, status = live["metadata"], live["status"]
    name, labels = metadata["name"], metadata.get("labels") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or []}
    if conditions.get("Ready") != "True":
        yield f"{name} is not ready"
    if live["spec"].get("unschedulable"):
        yield f"{name} is cordoned"
    if labels.get(HOSTNAME) != name:
        yield f"{name}: label {HOSTNAME} is {labels.get(HOSTNAME)}, and pods are placed by it"
    if NO_ADDRESSES in labels:
        yield f"{name}: label {NO_ADDRESSES} keeps MetalLB silent"
    addresses = [one["address"] for one in status["addresses"] if one["type"] == "InternalIP"]
    if node.address not in addresses:
        yield f"{name}: address is {', '.join(addresses)}, not {node.address}"
    cpus = _cores(status["capacity"]["cpu"])
    if cpus < node.cpus:
        yield f"{name}: cpus is {cpus:g}, less than {node.cpus}"
    memory = status["capacity"]["memory"]
    if _bytes(memory) < size(node.memory):
        yield f"{name}: memory is {_bytes(memory) / 1024**3:.1f}Gi, less than {node.memory}"


def gpu(cluster: Cluster, name: str, device: str) -> Result:
    """Look whether the node `name` has the `device` that Ollama's pod asks for."""
    node = cluster.ask(f"/api/v1/nodes/{name}")
    offered = node["status"]["allocatable"].get(device, "0") if node else "0"
    if int(offered) < 1:
        return fail(
            f"{name} offers no {device}, so that Ollama's pod would wait for ever",
            "install its device plugin, or profile: cpu",
        )
    return ok(f"{name} offers {device}")


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def _bytes(quantity: str) -> int:
    return int(quantity) if quantity.isdigit() else size(quantity)
