"""Rules for the whole program, on every stack file."""

import pytest
from harness import Deployment, Registration, deploy_program, deployed, stack_config

STACKS = ("home", "sandbox", "example-two-nodes")
SPARE_NODE = {
    "address": "192.168.1.98",
    "cpus": 8,
    "memory": "16Gi",
    "disk": {"path": "/mnt/spare", "size": "200Gi"},
}
COMPONENTS = {"LocalStorage", "MetalLBPool", "OllamaStack", "OpenWebUI", "ObservabilityStack"}


@pytest.fixture(params=STACKS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """The deployment of each stack file."""
    return deployed(request.param)


def kind_and_name(resource: Registration) -> tuple[str, str, str]:
    metadata = resource.inputs["metadata"]
    return resource.type, metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize("stack", STACKS)
def test_a_second_run_registers_the_same_resources(stack: str) -> None:
    assert deploy_program(stack).resources == deployed(stack).resources


def test_every_resource_belongs_to_one_of_five_components(deployment: Deployment) -> None:
    components = {
        r.type.rpartition(":")[2]: r.name
        for r in deployment.resources.values()
        if ":index:" in r.type and r.type.startswith("homelab")
    }
    orphans = [
        key
        for key, r in deployment.resources.items()
        if r.parent not in components.values() and not r.type.startswith(("homelab:", "pulumi:"))
    ]

    assert set(components) == COMPONENTS
    assert orphans == []


def test_every_kubernetes_resource_uses_the_explicit_provider(deployment: Deployment) -> None:
    strays = [
        key
        for key, r in deployment.resources.items()
        if r.type.startswith("kubernetes:") and "::cluster::" not in r.provider
    ]

    assert strays == []


def test_the_provider_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/somewhere/else")
    provider = deploy_program("home")["pulumi:providers:kubernetes::cluster"]

    assert provider.inputs["kubeconfig"] == ""
    assert provider.inputs["clusterIdentifier"]


def test_no_two_objects_have_the_same_name(deployment: Deployment) -> None:
    objects = [kind_and_name(resource) for resource in deployment.objects()]

    assert len(objects) == len(set(objects))


def test_every_release_is_named_and_pinned(deployment: Deployment) -> None:
    for release in deployment.of_kind("Release"):
        assert release.inputs["name"]
        assert release.inputs["version"].count(".") == 2


def test_outputs_with_a_password_are_secret(deployment: Deployment) -> None:
    assert {name for name in deployment.outputs if "password" in name} == deployment.secret_outputs


def test_the_sandbox_has_the_same_objects_as_home_except_the_reader_of_the_metallb_release() -> (
    None
):
    home, sandbox = deployed().resources, deployed("sandbox").resources
    # In home, the program installs MetalLB as a release, which `make drift` reads.
    only_home = [home[key] for key in home if key not in sandbox]

    assert {resource.name for resource in only_home if resource.parent != "homelab"} == {
        "monitoring-reader-metallb-role",
        "monitoring-reader-metallb-binding",
    }
    assert set(sandbox) <= set(home)


def test_a_new_node_changes_no_volume() -> None:
    config = stack_config("example-two-nodes")
    config["nodes"]["spare"] = SPARE_NODE
    before = deployed("example-two-nodes").resources
    after = deploy_program("example-two-nodes", config).resources

    assert {key.partition("::")[2] for key in after if after[key] != before.get(key)} == {
        "open-webui-policy",
        "monitoring-grafana-policy",
        "open-webui-deployment",  # a browser may open the page by the node's name
        "monitoring-server-dashboard",
        "monitoring-disk-alerts",
    }


def test_until_the_owner_confirms_it_up_says_what_to_copy() -> None:
    kept = deploy_program("home", stack_config("home") | {"copies_kept": True})

    for name in ("state", "passphrase", "backup_password"):
        assert name in deployed().outputs["copies"]
    assert "copies" not in kept.outputs
    assert "copies" not in deployed("sandbox").outputs
