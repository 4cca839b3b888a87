"""The account that may look at the whole house and change nothing: for drift and status."""

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
LOOK = ["get", "list", "watch"]
# One by one: `*` would be Secrets too, and `pods/exec`.
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
# What the program and its charts make, and the endpoints, events and pods that a refresh of a
# Service or a Deployment reads (pulumi-kubernetes, provider/pkg/await).
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
"""The name of Prometheus' Service in the API server's way to it."""
# A refresh reads each Secret of the program. By name: who may list Secrets may read all of them.
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
    with_releases: Mapping[str, Input[str]],
    parent: Resource,
) -> None:
    """Make the account in `namespace`; nobody has a password for it, tokens are asked for.

    In the namespaces `with_releases`, here by logical name, it may read every Secret: Helm keeps
    releases in them, and numbers the names.
    """
    child = ResourceOptions(parent=parent)
    about: ObjectMetaArgsDict = {"name": ACCOUNT, "labels": labels(ACCOUNT)}
    account = ServiceAccount(
        f"{name}-reader",
        metadata={**about, "namespace": namespace},
        automount_service_account_token=False,
        opts=child,
    )
    subjects: list[SubjectArgsDict] = [
        {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    ]

    rules: Sequence[PolicyRuleArgsDict] = [
        {"api_groups": [""], "resources": CORE, "verbs": LOOK},
        {"api_groups": GROUPS, "resources": ["*"], "verbs": LOOK},
        {"api_groups": [""], "resources": ["secrets"], "resource_names": SECRETS, "verbs": ["get"]},
        # For `make status`: its GET requests show measurements and alerts, and can change nothing.
        {
            "api_groups": [""],
            "resources": ["services/proxy"],
            "resource_names": [PROMETHEUS],
            "verbs": ["get"],
        },
    ]
    role = ClusterRole(f"{name}-reader-role", metadata=about, rules=rules, opts=child)
    ClusterRoleBinding(
        f"{name}-reader-binding",
        metadata=about,
        role_ref=_role("ClusterRole"),
        subjects=subjects,
        opts=ResourceOptions(parent=parent, depends_on=[account, role]),
    )
    for key, where in with_releases.items():
        label = f"{name}-reader-{key}"
        secrets = Role(
            f"{label}-role",
            metadata={**about, "namespace": where},
            rules=[{"api_groups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}],
            opts=child,
        )
        RoleBinding(
            f"{label}-binding",
            metadata={**about, "namespace": where},
            role_ref=_role("Role"),
            subjects=subjects,
            opts=ResourceOptions(parent=parent, depends_on=[account, secrets]),
        )


def _role(kind: str) -> RoleRefArgsDict:
    return {"api_group": "rbac.authorization.k8s.io", "kind": kind, "name": ACCOUNT}
