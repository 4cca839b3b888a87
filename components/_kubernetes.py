"""What every component shares: labels, Pod Security, pods, Services and network policies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

from pulumi import Input, Output, Resource, ResourceOptions
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    PodSpecArgsDict,
    ResourceRequirementsArgsDict,
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
"""The uid and gid of every pod here; both images would run as root if not told otherwise."""

RESTRICTED: SecurityContextArgsDict = {
    "allow_privilege_escalation": False,
    "capabilities": {"drop": ["ALL"]},
    "read_only_root_filesystem": True,
}
"""A container's security context: what Pod Security `restricted` asks for, and a read-only root."""


UNAWAITED = {"pulumi.com/skipAwait": "true"}
"""Annotation by which the provider does not wait for an object to become ready."""

SLOW_PULL = "2h"
"""How long a pod may take to run: the kubelet pulls one image after the other, and the 8 GB of all
take an hour at 20 Mbit/s."""


class ChartArgs(TypedDict):
    """Inputs of a `Release` that say which chart."""

    chart: str
    version: str | None
    repository_opts: RepositoryOptsArgsDict | None


def chart(name: str, version: str, where: str) -> ChartArgs:
    """The chart `name`, in a folder or a `.tgz`, as `oci://…`, or in a repository as `https://…`.

    A folder or a `.tgz` has its own version.
    """
    is_url = where.startswith(("oci://", "https://"))
    if not is_url or where.endswith(".tgz"):
        return {"chart": where, "version": None, "repository_opts": None}
    if where.startswith("oci://"):
        return {"chart": where, "version": version, "repository_opts": None}
    return {"chart": name, "version": version, "repository_opts": {"repo": where}}


class Pod(TypedDict):
    """What the scheduler and the kubelet need to know of a pod."""

    image: str
    """Image of its main container, pinned."""
    cpu: float
    """Cores to be scheduled with; there is no limit."""
    memory_request: str
    """Memory to be scheduled with, such as `1Gi`."""
    memory_limit: str
    """Memory at which the container is killed."""
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: the one with the volume."""


class Telemetry(TypedDict):
    """Where a pod pushes metrics."""

    otlp_url: Input[str]
    """Address that takes them, by OTLP over HTTP."""
    pod_labels: dict[str, str]
    """Labels that open the way there."""


NOWHERE: Telemetry = {"otlp_url": "", "pod_labels": {}}
"""Nothing is pushed."""


def texts(folder: Path, *patterns: str) -> dict[str, str]:
    """The text files of `folder` that match, by name, as a ConfigMap has them."""
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    return {file.name: file.read_text() for file in files}


def labels(name: str) -> dict[str, str]:
    """The recommended labels of an object that belongs to the application `name`."""
    return {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/part-of": "homelab",
        "app.kubernetes.io/managed-by": "pulumi",
    }


def selector(name: str) -> dict[str, str]:
    """The one label that selects the pods of the application `name`."""
    return {"app.kubernetes.io/name": name}


def pod_security(level: str) -> dict[str, str]:
    """Namespace labels that enforce a Pod Security level, and tell what `restricted` refuses."""
    return {
        "pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/audit": "restricted",
    }


def pod(
    container: ContainerArgsDict,
    volumes: list[VolumeArgsDict],
    node: str | None,
    server: ContainerArgsDict | None = None,
    groups: Sequence[int] = (),
) -> PodSpecArgsDict:
    """A restricted pod spec around one container, on the named node or wherever its volume is.

    A `server` beside it starts first, and ends last: a native sidecar, for which Kubernetes must
    be 1.29 or newer. `groups` are further group numbers of its processes.
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
            # Otherwise the kubelet walks every file of a volume at each start.
            "fs_group_change_policy": "OnRootMismatch",
            "seccomp_profile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if server:
        spec["init_containers"] = [{**server, "restart_policy": "Always"}]
    if node:
        spec["node_selector"] = {"kubernetes.io/hostname": node}
    return spec


def otel_service(name: str, namespace: Input[str], instance: str) -> dict[str, Input[str]]:
    """Environment that names who pushes metrics; the same after a restart: the same series."""
    return {
        "OTEL_SERVICE_NAME": name,
        "OTEL_RESOURCE_ATTRIBUTES": Output.concat(
            "service.namespace=", namespace, ",service.instance.id=", instance
        ),
    }


def environment(values: Mapping[str, Input[str]]) -> list[EnvVarArgsDict]:
    """A container's plain environment variables."""
    return [{"name": name, "value": value} for name, value in values.items()]


def resources(of: Pod, device: str | None = None) -> ResourceRequirementsArgsDict:
    """Requests and the memory limit of a container, with one `device` of a device plugin."""
    # A device must be both, and the same.
    devices = {device: "1"} if device else {}
    return {
        "requests": {"cpu": f"{of['cpu']:g}", "memory": of["memory_request"], **devices},
        "limits": {"memory": of["memory_limit"], **devices},
    }


def volume(name: str, claim: Input[str]) -> VolumeArgsDict:
    """A pod's volume that is a claim."""
    return {"name": name, "persistent_volume_claim": {"claim_name": claim}}


DNS: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": "kube-system"}},
            "pod_selector": {"match_labels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}
"""Egress rule that lets a pod ask the cluster's DNS."""

INTERNET: NetworkPolicyEgressRuleArgsDict = {
    "to": [
        {
            "ip_block": {
                "cidr": "0.0.0.0/0",
                # Private, shared and link-local ranges: RFC 1918, 6598, 3927.
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
"""Egress rule that lets a pod reach HTTPS servers outside the house, and none inside."""


def from_pods(
    matching: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyIngressRuleArgsDict:
    """Ingress rule for pods of these namespaces, or of the same one."""
    return {
        "from_": _peers(matching, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def to_pods(
    matching: dict[str, str], port: int, *namespaces: Input[str]
) -> NetworkPolicyEgressRuleArgsDict:
    """Egress rule to pods of these namespaces, or of the same one."""
    return {
        "to": _peers(matching, namespaces),
        "ports": [{"protocol": "TCP", "port": port}],
    }


def _peers(
    matching: dict[str, str], namespaces: Sequence[Input[str]]
) -> list[NetworkPolicyPeerArgsDict]:
    pods: NetworkPolicyPeerArgsDict = {"pod_selector": {"match_labels": matching}}
    named = "kubernetes.io/metadata.name"
    return [
        {**pods, "namespace_selector": {"match_labels": {named: namespace}}}
        for namespace in namespaces
    ] or [pods]


def policy(
    name: str,
    namespace: Input[str],
    matching: dict[str, str],
    parent: Resource,
    *,
    ingress: Sequence[NetworkPolicyIngressRuleArgsDict] | None = None,
    egress: Sequence[NetworkPolicyEgressRuleArgsDict] | None = None,
) -> NetworkPolicy:
    """Cut the pods with the labels `matching` off, but for the rules given.

    A direction without rules is closed, one that is None stays as other policies leave it.
    """
    spec: NetworkPolicySpecArgsDict = {
        "pod_selector": {"match_labels": matching} if matching else {},
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
    matching: dict[str, str],
    ports: tuple[int, str],
    parent: Resource,
    *,
    address: str | None = None,
    pool: Input[str] = "",
) -> Service:
    """A Service inside the cluster or, given an address of MetalLB's `pool`, on the home network.

    `ports` are its own and the name of the pods' one.
    """
    port, target_port = ports
    asked: dict[str, Input[str]] = {
        "metallb.io/loadBalancerIPs": address or "",
        "metallb.io/address-pool": pool,
    }
    spec: ServiceSpecArgsDict = {
        "type": "LoadBalancer" if address else "ClusterIP",
        "selector": matching,
        "ports": [{"name": "http", "port": port, "target_port": target_port}],
    }
    if address:
        # MetalLB needs no node port, and one would be open on every address of the node.
        spec["allocate_load_balancer_node_ports"] = False
        # The pod sees who calls instead of the node.
        spec["external_traffic_policy"] = "Local"
    return Service(
        logical_name,
        metadata={
            "name": name,
            "namespace": namespace,
            "labels": labels(name),
            # Its pods may have images to pull first, and what depends on it needs its name only.
            "annotations": {**UNAWAITED, **(asked if address else {})},
        },
        spec=spec,
        opts=ResourceOptions(parent=parent),
    )
