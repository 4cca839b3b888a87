"""What every component writes the same way: labels, Pod Security, pods and their containers."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from pulumi import Input, Output
from pulumi_kubernetes.core.v1 import (
    ContainerArgsDict,
    EnvVarArgsDict,
    PodSpecArgsDict,
    ResourceRequirementsArgsDict,
    SecurityContextArgsDict,
    VolumeArgsDict,
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


class PodArgs(TypedDict):
    """What every pod with a volume needs to know."""

    namespace: Input[str]
    """Namespace to run in."""
    image: str
    """Image of its one container, pinned."""
    claim_name: Input[str]
    """Claim of the volume that keeps its data."""
    cpu: float
    """Cores to be scheduled with; there is no limit."""
    memory_request: str
    """Memory to be scheduled with."""
    memory_limit: str
    """Memory at which the pod is killed."""
    node: NotRequired[str | None]
    """Host name of the machine to run on. Default: the one with the volume."""


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
    """Namespace labels that enforce a Pod Security level and audit against `restricted`."""
    return {
        "pod-security.kubernetes.io/enforce": level,
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


def resources(args: PodArgs, device: str | None = None) -> ResourceRequirementsArgsDict:
    """What a container asks for, with one of `device`, and the memory that it may not exceed."""
    # A device must be both, and the same.
    devices = {device: "1"} if device else {}
    return {
        "requests": {"cpu": f"{args['cpu']:g}", "memory": args["memory_request"], **devices},
        "limits": {"memory": args["memory_limit"], **devices},
    }


def volume(name: str, claim: Input[str]) -> VolumeArgsDict:
    """A pod's volume that is a claim."""
    return {"name": name, "persistent_volume_claim": {"claim_name": claim}}
