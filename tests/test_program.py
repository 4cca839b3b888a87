"""What holds for the whole program, whatever it is made of."""

import pytest
from harness import Deployment, Registration, deploy_program, deployed, stack_config

STACKS = {stack: deployed(stack) for stack in ("home", "sandbox", "example-two-nodes")}
COMPONENTS = {"LocalStorage", "MetalLBPool", "OllamaStack", "OpenWebUI", "ObservabilityStack"}

every_stack = pytest.mark.parametrize("lab", STACKS.values(), ids=STACKS.keys())


def kind_and_name(made: Registration) -> tuple[str, str, str]:
    metadata = made.inputs["metadata"]
    return made.type, metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize("stack", STACKS)
def test_a_second_run_registers_exactly_the_same_things(stack: str) -> None:
    assert deploy_program(stack).resources == STACKS[stack].resources


@every_stack
def test_the_five_components_are_there_and_everything_belongs_to_one(lab: Deployment) -> None:
    made = {
        r.type.rpartition(":")[2]: r.name
        for r in lab.resources.values()
        if ":index:" in r.type and r.type.startswith("homelab")
    }
    orphans = [
        key
        for key, r in lab.resources.items()
        if r.parent not in made.values() and not r.type.startswith(("homelab:", "pulumi:"))
    ]

    assert set(made) == COMPONENTS
    assert orphans == []


@every_stack
def test_every_kubernetes_resource_uses_the_explicit_provider(lab: Deployment) -> None:
    strays = [
        key
        for key, r in lab.resources.items()
        if r.type.startswith("kubernetes:") and "::cluster::" not in r.provider
    ]

    assert strays == []


@every_stack
def test_the_provider_is_the_same_from_every_machine(
    lab: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = "pulumi:providers:kubernetes::cluster"
    monkeypatch.setenv("KUBECONFIG", "/somewhere/else")

    assert deploy_program("home")[provider].inputs == STACKS["home"][provider].inputs
    assert lab[provider].inputs["kubeconfig"] == ""
    assert lab[provider].inputs["clusterIdentifier"]


@every_stack
def test_no_two_objects_have_one_name(lab: Deployment) -> None:
    objects = [kind_and_name(made) for made in lab.objects()]

    assert len(objects) == len(set(objects))


@every_stack
def test_every_release_is_named_and_pinned(lab: Deployment) -> None:
    for release in lab.of_kind("Release"):
        assert release.inputs["name"]
        assert release.inputs["version"].count(".") == 2


@every_stack
def test_outputs_with_a_password_are_secret(lab: Deployment) -> None:
    assert {name for name in lab.outputs if "password" in name} == lab.secret_outputs


def test_the_sandbox_runs_the_same_objects_as_the_house() -> None:
    home, sandbox = STACKS["home"].resources, STACKS["sandbox"].resources
    # MetalLB is no part of MicroK8s here: the program installs it and reads its release.
    only_home = [home[key] for key in home if key not in sandbox]

    assert {one.name for one in only_home if one.parent != "homelab"} == {
        "monitoring-reader-metallb-role",
        "monitoring-reader-metallb-binding",
    }
    assert set(sandbox) <= set(home)


def test_every_pod_runs_on_the_node_that_has_its_volume() -> None:
    config = stack_config("home")
    disk = {"path": "/mnt/spare", "size": "200Gi"}
    config["nodes"]["spare"] = {
        "address": "192.168.1.99",
        "cpus": 8,
        "memory": "16Gi",
        "disk": disk,
    }
    config["webui"] |= {"node": "spare", "volume": {"path": "/mnt/spare/chat", "size": "9Gi"}}
    lab = deploy_program("home", config)

    placed = {}
    for volume in lab.of_kind("PersistentVolume"):
        (term,) = volume.inputs["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        placed[volume.inputs["spec"]["claimRef"]["name"]] = term["matchExpressions"][0]["values"]
    chosen = {
        volume["persistentVolumeClaim"]["claimName"]: [
            made.inputs["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/hostname"]
        ]
        for made in lab.of_kind("Deployment")
        for volume in made.inputs["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }

    assert chosen == {"models": ["evo4t"], "open-webui": ["spare"]}
    assert chosen.items() <= placed.items()
