"""Builders of Kubernetes objects for all components: pods, Services, NetworkPolicies, labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from pulumi import Input, Output, Resource, ResourceOptions
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    ContainerArgsDict,
    EnvVarArgsDict,
    PodSpecArgsDict,
    ResourceRequirementsArgsDict,
    SecretKeySelectorArgsDict,
    SecurityContextArgsDict,
    Service,
    ServiceSpecArgsDict,
    VolumeArgsDict,
)
from pulumi_kubernetes.helm.v3 import RepositoryOptsArgsDict
from pulumi_kubernetes.networking.v1 import (
    NetworkPolicy,
    NetworkPolicyEgressRuleArgsDict,
    NetworkPolicyIngressRuleArgsDict,
    NetworkPolicyPeerArgsDict,
    NetworkPolicySpecArgsDict,
)

USER = 1000
"""UID and GID of every pod; the images' default is root."""

RESTRICTED: SecurityContextArgsDict = {
    "allow_privilege_escalation": False,
    "capabilities": {"drop": ["ALL"]},
    "read_only_root_filesystem": True,
}
"""Security context of every container: Pod Security `restricted`, and a read-only root."""


SKIP_AWAIT = {"pulumi.com/skipAwait": "true"}
"""Annotation: the provider does not wait until the object is ready."""

SLOW_PULL = "2h"
"""Timeout until a pod is ready: the kubelet pulls one image after the other, and all 8 GB take an
hour at 20 Mbit/s."""


class ChartArgs(TypedDict):
    """Inputs of a `Release` that select its chart."""

    chart: str
    version: str | None
    repository_opts: RepositoryOptsArgsDict | None


def chart(name: str, version: str, source: str) -> ChartArgs:
    """Return the inputs for chart `name`; a directory or `.tgz` has its own version.

    `source` is a directory, a `.tgz`, an `oci://` reference, or the `https://` URL of a repository.
    """
    is_url = source.startswith(("oci://", "https://"))
    if not is_url or source.endswith(".tgz"):
        return {"chart": source, "version": None, "repository_opts": None}
    if source.startswith("oci://"):
        return {"chart": source, "version": version, "repository_opts": None}
    return {"chart": name, "version": version, "repository_opts": {"repo": source}}


class Pod(TypedDict):
    """Image, resources and node of a pod."""

    image: str
    """Image of its main container, pinned."""
    cpu: float
    """CPU request, in cores; there is no limit."""
    memory_request: str
    """Memory request, such as `1Gi`."""
    memory_limit: str
    """Memory limit, such as `2Gi`."""
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: the node of its volume."""


class Telemetry(TypedDict):
    """Where a pod pushes metrics."""

    otlp_url: Input[str]
    """Endpoint of OTLP over HTTP."""
    pod_labels: dict[str, str]
    """Labels by which network policies allow a pod to reach it."""


def read_files(folder: Path, *patterns: str) -> dict[str, str]:
    """Return the text of the files in `folder` that match, by name: a ConfigMap's `data`."""
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return {file.name: file.read_text() for file in files}


def labels(name: str) -> dict[str, str]:
    """Return the recommended labels of an object of the application `name`."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "homelab",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def selector(name: str) -> dict[str, str]:
    """Return the label that selects the pods of the application `name`."""
    return {"app.kubernetes.io/name": name}


def pod_security(level: str) -> dict[str, str]:
    """Return namespace labels that enforce a Pod Security level, and warn about `restricted`."""
    return {
        "pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/audit": "restricted",
    }


def pod_spec(
    container: ContainerArgsDict,
    volumes: list[VolumeArgsDict],
    node: str | None,
    sidecar: ContainerArgsDict | None = None,
    groups: Sequence[int] = (),
) -> PodSpecArgsDict:
    """Return a restricted spec with one container, on `node` or on the node of its volume.

    `sidecar` is a native one (Kubernetes 1.29 or newer): it starts before the container and
    stops after it. `groups` are supplemental group IDs.
    """
    spec: PodSpecArgsDict = {
        "automount_service_account_token": False,
        "enable_service_links": False,
        "security_context": {
            "run_as_non_root": True,
            "run_as_user": USER,
            "run_as_group": USER,
            "fs_group": USER,
            "supplemental_groups": groups or None,
            # With Always, the kubelet changes every file of the volume at each start.
            "fs_group_change_policy": "OnRootMismatch",
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if sidecar:
        spec["init_containers"] = [{**sidecar, "restart_policy": "Always"}]
    if node:
        spec["node_selector"] = {"kubernetes.io/hostname": node}
    return spec


def otel_service(name: str, namespace: Input[str], instance: str) -> dict[str, Input[str]]:
    """Return the environment that identifies a service's metrics, the same after a restart."""
    return {
        "OTEL_SERVICE_NAME": name,
        "OTEL_RESOURCE_ATTRIBUTES": Output.concat(
            "service.namespace=", namespace, ",service.instance.id=", instance
        ),
    }


def environment(values: Mapping[str, Input[str]]) -> list[EnvVarArgsDict]:
    """Return a container's `env`, without Secrets."""
    return [{"name": name, "value": value} for name, value in values.items()]


def secret_variable(
    name: str, secret: Input[str], key: str = "", *, optional: bool = False
) -> EnvVarArgsDict:
    """Return an environment variable from a Secret's key, by default of the same name."""
    reference: SecretKeySelectorArgsDict = {"name": secret, "key": key or name}
    if optional:
        reference["optional"] = True
    return {"name": name, "value_from": {"secret_key_ref": reference}}


def resources(pod: Pod, device: str | None = None) -> ResourceRequirementsArgsDict:
    """Return a container's resources, with one `device` of a device plugin."""
    # Request and limit of an extended resource must be equal.
    devices = {device: "1"} if device else {}
    return {
        "requests": {"cpu": f"{pod['cpu']:g}", "memory": pod["memory_request"], **devices},
        "limits": {"memory": pod["memory_limit"], **devices},
    }


def volume(name: str, claim: Input[str]) -> VolumeArgsDict:
    """Return a pod's volume of a PersistentVolumeClaim."""
    return {"name": name, "persistent_volume_claim": {"claim_name": claim}}


def files(name: str, config_map: ConfigMap) -> VolumeArgsDict:
    """Return a pod's volume of a ConfigMap's files."""
    return {"name": name, "config_map": {"name": config_map.metadata["name"]}}


DNS: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": "kube-system"}},
            "pod_selector": {"match_labels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
"""Egress rule: the cluster's DNS."""

INTERNET: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "ip_block": {
                "cidr": "0.0.0.0/0",
                # Private, shared and link-local ranges: RFC 1918, 6598 and 3927.
                "except_": [
                    "10.0.0.0/8",
                    "100.64.0.0/10",
                    "169.254.0.0/16",
                    "172.16.0.0/12",
                    "192.168.0.0/16",
                ],
            }
        }
    ],
    "ports": [{"protocol": "TCP", "port": 443}],
}
"""Egress rule: HTTPS to public addresses."""


def from_pods(
    match_labels: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyIngressRuleArgsDict:
    """Return an ingress rule from pods of these namespaces; without any, of the policy's own."""
    return {
        "from_": _peers(match_labels, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def to_pods(
    match_labels: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyEgressRuleArgsDict:
    """Return an egress rule to pods of these namespaces; without any, of the policy's own."""
    return {
        "to": _peers(match_labels, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _peers(
    match_labels: dict[str, str], namespaces: Sequence[Input[str]]
) -> list[NetworkPolicyPeerArgsDict]:
    pods: NetworkPolicyPeerArgsDict = {"pod_selector": {"match_labels": match_labels}}
    label = "kubernetes.io/metadata.name"
    return [
        {**pods, "namespace_selector": {"match_labels": {label: namespace}}}
        for namespace in namespaces
    ] or [pods]


def policy(
    name: str,
    namespace: Input[str],
    match_labels: dict[str, str],
    parent: Resource,
    *,
    ingress: Sequence[NetworkPolicyIngressRuleArgsDict] | None = None,
    egress: Sequence[NetworkPolicyEgressRuleArgsDict] | None = None,
) -> NetworkPolicy:
    """Create a NetworkPolicy for the pods with the labels `match_labels`; of all, if empty.

    An empty list of rules denies the direction; None does not select it.
    """
    spec: NetworkPolicySpecArgsDict = {
        "pod_selector": {"match_labels": match_labels} if match_labels else {},
        "policy_types": [
            *(["Ingress"] if ingress is not None else []),
            *(["Egress"] if egress is not None else []),
        ],
    }
    if ingress:
        spec["ingress"] = ingress
    if egress:
        spec["egress"] = egress
    return NetworkPolicy(
        f"{name}-policy",
        metadata={"name": name, "namespace": namespace, "labels": labels(name)},
        spec=spec,
        opts=ResourceOptions(parent=parent),
    )


def service(
    logical_name: str,
    name: str,
    namespace: Input[str],
    pod_selector: dict[str, str],
    ports: tuple[int, str],
    parent: Resource,
    *,
    address: str | None = None,
    pool: Input[str] = "",
) -> Service:
    """Create a ClusterIP Service, or with an `address` of MetalLB's `pool` a LoadBalancer.

    `ports` are its port and its target port's name.
    """
    port, target_port = ports
    metallb: dict[str, Input[str]] = {
        "metallb.io/loadBalancerIPs": address or "",
        "metallb.io/address-pool": pool,
    }
    spec: ServiceSpecArgsDict = {
        "type": "LoadBalancer" if address else "ClusterIP",
        "selector": pod_selector,
        "ports": [{"name": "http", "port": port, "target_port": target_port}],
    }
    if address:
        # MetalLB needs no node port, which would be open on every address of the node.
        spec["allocate_load_balancer_node_ports"] = False
        # Preserves the client's source IP, which network policies and audit logs need.
        spec["external_traffic_policy"] = "Local"
    return Service(
        logical_name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels(name),
            # Pulling its pods' images takes longer than the provider waits for a Service.
            "annotations": {**SKIP_AWAIT, **(metallb if address else {})},
        },
        spec=spec,
        opts=ResourceOptions(parent=parent),
    )
