"""What a cluster holds before anything is deployed to it: nodes, and MetalLB's own Pod."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NODES = "/api/v1/nodes"
METALLB = "/api/v1/namespaces/metallb-system"
CONTROLLER = f"{METALLB}/pods/controller"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PREVIEWER = "sandbox-preview"
"""The account of a preview."""
TRIED = (
    *("configmaps", "cronjobs", "deployments", "ipaddresspools", "jobs", "l2advertisements"),
    *("namespaces", "networkpolicies", "prometheusrules", "secrets", "serviceaccounts", "services"),
)
"""What a preview tries at the API server. Not volumes, claims and bindings: one that is to be
replaced is refused, because the old one still has the name; what is forbidden is not tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine to simulate."""

    name: str
    cpus: int
    memory: str
    """A Kubernetes quantity, e.g. `93Gi`."""
    address: str
    """Its address on the home network."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def manifest(self) -> dict[str, Any]:
        """Give the Node object, with the labels that a kubelet would add."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        # A kubelet, too, takes 110 pods.
        room = {"cpu": str(self.cpus), "memory": self.memory, "pods": "110"}
        addresses = {"InternalIP": self.address, "Hostname": self.name}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels | dict(self.labels)},
            "status": {
                "capacity": room,
                "allocatable": room,
                "addresses": [{"type": kind, "address": at} for kind, at in addresses.items()],
            },
        }


def definition(sheet: Path) -> str:
    """Give the path at the API server of the definition in a file called `group_plural.yaml`."""
    group, plural = sheet.stem.split("_")
    return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}"


def metallb() -> dict[str, dict[str, Any]]:
    """Give, by path, the namespace and the Pod in which MetalLB's controller looks for itself."""
    container = {"name": "controller", "image": "metallb"}
    return {
        METALLB: _object("Namespace", "metallb-system"),
        f"{METALLB}/serviceaccounts/controller": _object("ServiceAccount", "controller"),
        CONTROLLER: {
            **_object("Pod", "controller"),
            # An account of its own: the default one appears a moment after the namespace.
            "spec": {"serviceAccountName": "controller", "containers": [container]},
        },
    }


def previewer() -> dict[str, dict[str, Any]]:
    """Give, by path, what lets the account PREVIEWER read everything and try what is TRIED."""
    reads = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
    tries = {"apiGroups": ["*"], "resources": [*TRIED], "verbs": ["*"]}
    role, user = (
        {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": PREVIEWER}
        for kind in ("ClusterRole", "User")
    )
    about = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": PREVIEWER}}
    return {
        f"{RBAC}/clusterroles/{PREVIEWER}": {
            **about,
            "kind": "ClusterRole",
            "rules": [reads, tries],
        },
        f"{RBAC}/clusterrolebindings/{PREVIEWER}": {
            **about,
            "kind": "ClusterRoleBinding",
            "roleRef": role,
            "subjects": [user],
        },
    }


def _object(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
