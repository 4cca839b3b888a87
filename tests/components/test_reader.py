"""The read-only account of drift and status: what it may read, and that it may change nothing."""

from typing import Any

import pytest
from harness import Deployment, deployed

KIND = "kubernetes:rbac.authorization.k8s.io/v1"
RELEASE_NAMESPACES = {"observability", "metallb-system"}


@pytest.fixture(params=["home", "backups", "two servers"])
def stack(request: pytest.FixtureRequest) -> Deployment:
    return deployed(request.param)


def cluster_rules(stack: Deployment) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = stack[f"{KIND}:ClusterRole::monitoring-reader-role"].inputs[
        "rules"
    ]
    return rules


def roles(stack: Deployment) -> dict[str, dict[str, Any]]:
    """The only rule of each Role, by namespace."""
    rules = {}
    for role in stack.of_kind("Role"):
        [rules[role.inputs["metadata"]["namespace"]]] = role.inputs["rules"]
    return rules


def test_it_only_reads_and_has_no_wildcard_in_the_core_group(stack: Deployment) -> None:
    rules = [*cluster_rules(stack), *roles(stack).values()]
    core = [rule for rule in rules if "" in rule["apiGroups"]]

    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert [rule for rule in core if "*" in rule["resources"]] == []
    assert [rule for rule in rules if "*" in rule["apiGroups"]] == []
    assert [rule for rule in core if "/" in str(rule["resources"])] == [
        {
            "apiGroups": [""],
            "resources": ["services/proxy"],
            "resourceNames": ["http:kube-prom-stack-prometheus:9090"],
            "verbs": ["get"],
        }
    ]


def test_it_reads_the_programs_secrets_and_helm_releases_only(stack: Deployment) -> None:
    created: dict[str, set[str]] = {}
    for secret in stack.of_kind("Secret"):
        metadata = secret.inputs["metadata"]
        created.setdefault(metadata["namespace"], set()).add(metadata["name"])

    assert [rule for rule in cluster_rules(stack) if "secrets" in rule["resources"]] == []
    for namespace, rule in roles(stack).items():
        assert rule["resources"] == ["secrets"]
        if namespace in RELEASE_NAMESPACES:
            assert "resourceNames" not in rule
        else:
            assert rule["verbs"] == ["get"]
            assert set(rule["resourceNames"]) == created[namespace]
    assert set(roles(stack)) == RELEASE_NAMESPACES | set(created)


def test_it_has_no_permanent_token(stack: Deployment) -> None:
    (account,) = stack.of_kind("ServiceAccount")

    assert account.inputs["automountServiceAccountToken"] is False
    assert [s for s in stack.of_kind("Secret") if "token" in s.inputs.get("type", "")] == []


def test_it_reads_every_namespace_with_a_helm_release(stack: Deployment) -> None:
    assert {it.inputs["namespace"] for it in stack.of_kind("Release")} == RELEASE_NAMESPACES
