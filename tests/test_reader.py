"""The account for drift and status: what it may read, and that it may change nothing."""

from typing import Any

from harness import backup_config, deploy, deploy_program
from pulumi import ComponentResource

from components.observability.reader import reader

HOME = deploy_program("home", backup_config())
KIND = "kubernetes:rbac.authorization.k8s.io/v1"
ROLE = HOME[f"{KIND}:ClusterRole::monitoring-reader-role"].inputs
OWN = HOME[f"{KIND}:Role::monitoring-reader-own-role"].inputs
RULES: list[dict[str, Any]] = [*ROLE["rules"], *OWN["rules"]]


def readable(resource: str) -> list[str]:
    """The names that may be read of a resource, in any namespace."""
    return [
        name
        for rule in ROLE["rules"]
        if resource in rule["resources"]
        for name in rule.get("resourceNames", ["*"])
    ]


def test_it_may_look_and_nothing_else() -> None:
    verbs = {verb for rule in RULES for verb in rule["verbs"]}
    core = [rule for rule in RULES if "" in rule["apiGroups"]]

    assert verbs == {"get", "list", "watch"}
    assert [rule for rule in core if "*" in rule["resources"]] == []
    assert [rule for rule in RULES if "*" in rule["apiGroups"]] == []
    below = [rule for rule in core if "/" in str(rule["resources"])]
    assert below == [
        {
            "apiGroups": [""],
            "resources": ["services/proxy"],
            "resourceNames": ["http:kube-prom-stack-prometheus:9090"],
            "verbs": ["get"],
        }
    ]


def test_it_may_read_the_programs_secrets_and_no_others() -> None:
    secrets = {made.inputs["metadata"]["name"] for made in HOME.of_kind("Secret")}

    assert set(readable("secrets")) == secrets


def test_it_may_read_every_kind_that_the_program_makes() -> None:
    groups = {group for rule in ROLE["rules"] for group in rule["apiGroups"] if group}
    made = {one.inputs["apiVersion"].rpartition("/")[0] for one in HOME.objects()}

    assert made - {""} <= groups
    core = {
        f"{one.type.rpartition(':')[2].lower()}s"
        for one in HOME.objects()
        if one.inputs["apiVersion"] == "v1"
    }
    assert core <= {*ROLE["rules"][0]["resources"], "secrets"}


def test_releases_are_read_where_they_are() -> None:
    def body() -> None:
        parent = ComponentResource("test:index:Test", "test")
        reader("test", "watch", {"own": "watch", "metallb": "metallb-system"}, parent)

    made = deploy(body)
    granted = {one.inputs["metadata"]["namespace"] for one in made.of_kind("Role")}
    bound = {one.inputs["metadata"]["namespace"]: one.inputs for one in made.of_kind("RoleBinding")}

    assert granted == set(bound) == {"watch", "metallb-system"}
    (subject,) = bound["metallb-system"]["subjects"]
    assert (subject["name"], subject["namespace"]) == ("homelab-reader", "watch")


def test_no_token_of_it_lies_about() -> None:
    (account,) = HOME.of_kind("ServiceAccount")

    assert account.inputs["automountServiceAccountToken"] is False
    assert [s for s in HOME.of_kind("Secret") if "token" in s.inputs.get("type", "")] == []


def test_every_namespace_with_a_release_lets_it_be_read() -> None:
    granted = {made.inputs["metadata"]["namespace"] for made in HOME.of_kind("Role")}

    assert {made.inputs["namespace"] for made in HOME.of_kind("Release")} <= granted
