"""The read-only ServiceAccount of `make drift`, `make status` and CI."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

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


class ReadableSecrets(TypedDict):
    """Secrets of a namespace that the account may read."""

    namespace: Input[str]
    names: list[str]


def reader(
    name: str,
    namespace: Input[str],
    release_namespaces: Mapping[str, Input[str]],
    secrets: Mapping[str, ReadableSecrets],
    parent: Resource,
) -> None:
    """Create the ServiceAccount in `namespace`; its tokens are requested when needed.

    It may read every Secret of the `release_namespaces`, because Helm stores releases in Secrets
    with numbered names, and these `secrets`, which a refresh reads; both by logical name.
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
    # By name, because `list` would allow reading all.
    rules_by_namespace: list[tuple[str, Input[str], PolicyRuleArgsDict]] = [
        *((key, it, _secrets(["get", "list"])) for key, it in release_namespaces.items()),
        *((key, it["namespace"], _secrets(["get"], it["names"])) for key, it in secrets.items()),
    ]
    for key, role_namespace, rule in rules_by_namespace:
        label = f"{name}-reader-{key}"
        secrets_role = Role(
            f"{label}-role",
            metadata={**metadata, "namespace": role_namespace},
            rules=[rule],
            opts=child,
        )
        RoleBinding(
            f"{label}-binding",
            metadata={**metadata, "namespace": role_namespace},
            role_ref=_role("Role"),
            subjects=subjects,
            opts=ResourceOptions(parent=parent, depends_on=[account, secrets_role]),
        )


def _secrets(verbs: list[str], names: list[str] | None = None) -> PolicyRuleArgsDict:
    rule: PolicyRuleArgsDict = {"api_groups": [""], "resources": ["secrets"], "verbs": verbs}
    return {**rule, "resource_names": names} if names else rule


def _role(kind: str) -> RoleRefArgsDict:
    return {"api_group": "rbac.authorization.k8s.io", "kind": kind, "name": ACCOUNT}
