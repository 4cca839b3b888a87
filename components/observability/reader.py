"""The read-only ServiceAccount of `make drift`, `make status` and CI."""

from collections.abc import Mapping, Sequence

from pulumi import Input, Resource, ResourceOptions
from pulumi_kubernetes.core.v1 import ServiceAccount
from pulumi_kubernetes.meta.v1 import ObjectMetaArgsDict
from pulumi_kubernetes.rbac.v1 import (
    ClusterRole,
    ClusterRoleBinding,
    PolicyRuleArgsDict,
    Role,
    RoleBinding,
    RoleRefArgsDict,
    SubjectArgsDict,
)

from components._kubernetes import labels

ACCOUNT = "homelab-reader"
READ_ONLY = ["get", "list", "watch"]
# Listed, because `*` would include Secrets and `pods/exec`.
CORE = [
    "configmaps",
    "endpoints",
    "events",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "serviceaccounts",
    "services",
]
# API groups of the program's and the charts' objects, and of those that a refresh of a Service or
# a Deployment reads (pulumi-kubernetes, provider/pkg/await).
GROUPS = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apps",
    "batch",
    "discovery.k8s.io",
    "metallb.io",
    "monitoring.coreos.com",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
]
PROMETHEUS = "http:kube-prom-stack-prometheus:9090"
"""Prometheus' Service, as the API server's proxy names it."""
# A refresh reads each Secret of the program. By name, because `list` would allow reading all.
SECRETS = [
    "alertmanager-config",
    "grafana-admin",
    "ollama-gateway",
    "open-webui",
    "open-webui-backup",
]


def reader(
    name: str,
    namespace: Input[str],
    release_namespaces: Mapping[str, Input[str]],
    parent: Resource,
) -> None:
    """Create the ServiceAccount in `namespace`; its tokens are requested when needed.

    In the `release_namespaces`, by logical name, it may read every Secret, because Helm stores
    releases in Secrets with numbered names.
    """
    child = ResourceOptions(parent=parent)
    metadata: ObjectMetaArgsDict = {"name": ACCOUNT, "labels": labels(ACCOUNT)}
    account = ServiceAccount(
        f"{name}-reader",
        metadata={**metadata, "namespace": namespace},
        automount_service_account_token=False,
        opts=child,
    )
    subjects: list[SubjectArgsDict] = [
        {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    ]

    rules: Sequence[PolicyRuleArgsDict] = [
        {"api_groups": [""], "resources": CORE, "verbs": READ_ONLY},
        {"api_groups": GROUPS, "resources": ["*"], "verbs": READ_ONLY},
        {"api_groups": [""], "resources": ["secrets"], "resource_names": SECRETS, "verbs": ["get"]},
        # For `make status`: Prometheus' queries are GET requests, which change nothing.
        {
            "api_groups": [""],
            "resources": ["services/proxy"],
            "resource_names": [PROMETHEUS],
            "verbs": ["get"],
        },
    ]
    role = ClusterRole(f"{name}-reader-role", metadata=metadata, rules=rules, opts=child)
    ClusterRoleBinding(
        f"{name}-reader-binding",
        metadata=metadata,
        role_ref=_role("ClusterRole"),
        subjects=subjects,
        opts=ResourceOptions(parent=parent, depends_on=[account, role]),
    )
    for key, release_namespace in release_namespaces.items():
        label = f"{name}-reader-{key}"
        secrets = Role(
            f"{label}-role",
            metadata={**metadata, "namespace": release_namespace},
            rules=[{"api_groups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}],
            opts=child,
        )
        RoleBinding(
            f"{label}-binding",
            metadata={**metadata, "namespace": release_namespace},
            role_ref=_role("Role"),
            subjects=subjects,
            opts=ResourceOptions(parent=parent, depends_on=[account, secrets]),
        )


def _role(kind: str) -> RoleRefArgsDict:
    return {"api_group": "rbac.authorization.k8s.io", "kind": kind, "name": ACCOUNT}
