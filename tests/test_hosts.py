"""What a host's profile changes, what it leaves alone, and what it wants to know."""

import json
from typing import Any

import pytest
from harness import (
    RESERVED,
    Deployment,
    deploy_program,
    deployed,
    gpu_config,
    read,
    stack_config,
)

from config import SettingsError, plan
from config.hosts import PROFILES

CPU = deployed()
GPU = deploy_program("home", gpu_config())
DEPLOYMENT = "kubernetes:apps/v1:Deployment::ollama-deployment"
RULE = "kubernetes:monitoring.coreos.com/v1:PrometheusRule::monitoring-gpu-alerts"


def pod(deployment: Deployment) -> dict[str, Any]:
    """The pod of the model server."""
    spec: dict[str, Any] = deployment[DEPLOYMENT].inputs["spec"]["template"]["spec"]
    return spec


def parts(deployment: Deployment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ollama's container and its gateway."""
    (ollama,), (gateway,) = pod(deployment)["initContainers"], pod(deployment)["containers"]
    return ollama, gateway


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_the_gpu_is_handed_over_by_the_device_plugin_and_its_groups() -> None:
    ollama, gateway = parts(GPU)
    asked = ollama["resources"]

    # A device that is not both asked for and the limit is refused by the API server.
    assert asked["requests"]["amd.com/gpu"] == asked["limits"]["amd.com/gpu"] == "1"
    assert "amd.com/gpu" not in json.dumps(gateway["resources"])
    assert pod(GPU)["securityContext"]["supplementalGroups"] == [44, 993]
    # Neither privilege nor a path of the host; the rest of `restricted` is in test_objects.
    assert not [volume for volume in pod(GPU)["volumes"] if "hostPath" in volume]
    assert "privileged" not in json.dumps(pod(GPU))


def test_a_profile_changes_ollamas_pod_and_the_alerts_and_nothing_else() -> None:
    changed = {
        key
        for key in CPU.resources.keys() | GPU.resources.keys()
        if key not in CPU.resources
        or CPU[key].inputs != getattr(GPU.resources.get(key), "inputs", 0)
    }

    assert changed == {DEPLOYMENT, RULE}
    before, after = (variables(parts(deployment)[0]) for deployment in (CPU, GPU))
    different = {name for name in after if before.get(name) != after[name]}
    # Context, slots, loaded models and prompt cache are the owner's on any machine.
    assert different == set(PROFILES["hx370"].environment)


def test_the_alerts_about_the_gpu_exist_where_one_is_expected() -> None:
    (group,) = GPU[RULE].inputs["spec"]["groups"]

    assert [rule["alert"] for rule in group["rules"]] == ["ModelOnCPU"]


def test_the_machine_of_the_models_decides() -> None:
    raw = gpu_config()
    raw["nodes"]["spare"] = stack_config("home")["nodes"]["evo4t"] | {"address": "192.168.1.99"}
    assert read(raw).gpu_memory(read(raw).ollama)

    raw["ollama"]["node"] = "spare"
    settings = read(raw)
    assert settings.gpu_memory(settings.ollama) is None
    assert settings.gpu(settings.ollama) is None
    assert settings.profile(settings.ollama).device is None


def test_the_plan_is_told_what_models_may_fill() -> None:
    settings = read(stack_config("home"))
    assert settings.gpu_memory(settings.ollama) is None
    # What Ollama is told to leave free is nobody's.
    settings = read(gpu_config())
    assert (memory := settings.gpu_memory(settings.ollama)) == 45 * 1024**3
    assert plan(settings, RESERVED)["ollama"].on_gpu < memory


def test_models_that_the_gpu_cannot_hold_are_refused() -> None:
    raw = gpu_config()
    # Enough for all but codellama's context beside another model.
    raw["nodes"]["evo4t"]["gpu"]["memory"] = "14Gi"
    raw["ollama"]["loaded_models"] = 2

    with pytest.raises(SettingsError, match=r"loaded_models: got 2, .* more than the GPU's"):
        read(raw)


def test_one_word_brings_the_models_back_to_the_processor() -> None:
    raw = gpu_config()
    raw["nodes"]["evo4t"]["profile"] = "cpu"
    back = deploy_program("home", raw)

    assert {key: made.inputs for key, made in back.resources.items()} == {
        key: made.inputs for key, made in CPU.resources.items()
    }


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes/evo4t/profile", "hx380", "profile: got 'hx380', want one of cpu, hx370"),
        *(
            (
                "nodes/evo4t/gpu",
                none,
                "gpu: missing, want the memory and groups of its GPU, for profile hx370",
            )
            for none in (None, ...)
        ),
        ("nodes/evo4t/gpu/groups", ..., "gpu.groups: missing, want the group IDs that ls -ln"),
        ("nodes/evo4t/gpu/memory", "46", "gpu.memory: got '46', want a size"),
        (
            "nodes/evo4t/gpu/memory",
            "93Gi",
            "gpu.memory: got '93Gi', want less than the node's memory, 93Gi",
        ),
        ("nodes/evo4t/gpu/groups", [], "gpu.groups: got [], want the group IDs that ls -ln"),
        ("nodes/evo4t/gpu/groups", [44, 0], "gpu.groups[1]: got 0, want a group ID"),
        ("nodes/evo4t/gpu/groups", ["render"], "gpu.groups[0]: got 'render', want a group ID"),
        (
            "ollama/context_length",
            65536,
            "context_length: got 65536, want at most 32768 with profile hx370",
        ),
        ("ollama/prompt_cache", "8Gi", "cache: got '8Gi', want at most 2Gi with profile hx370"),
    ],
)
def test_what_the_machine_has_is_asked_for_in_one_line(
    path: str, value: object, message: str
) -> None:
    raw = gpu_config()
    *above, last = path.split("/")
    section = raw
    for key in above:
        section = section[key]
    section[last] = value
    if value is ...:
        del section[last]

    with pytest.raises(SettingsError) as caught:
        read(raw)
    (line,) = str(caught.value).splitlines()
    assert message in line
