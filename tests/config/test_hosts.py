"""Hardware profiles: what they change in the deployment, and the settings they need."""

import json
from typing import Any

import pytest
from harness import (
    RESERVED,
    Deployment,
    deploy_program,
    deployed,
    environment,
    gpu_config,
    on_node,
    read,
    stack_config,
)
from settings_lab import changed

from config import SettingsError, plan
from config.hosts import PROFILES

DEPLOYMENT = "kubernetes:apps/v1:Deployment::ollama-deployment"
RULE = "kubernetes:monitoring.coreos.com/v1:PrometheusRule::monitoring-gpu-alerts"


def pod(deployment: Deployment) -> dict[str, Any]:
    """Return the pod spec of Ollama's Deployment."""
    spec: dict[str, Any] = deployment[DEPLOYMENT].inputs["spec"]["template"]["spec"]
    return spec


def parts(deployment: Deployment) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the containers of Ollama and its gateway."""
    (ollama,), (gateway,) = pod(deployment)["initContainers"], pod(deployment)["containers"]
    return ollama, gateway


def test_ollama_gets_the_gpu_by_device_plugin_and_groups_without_privileges() -> None:
    gpu = deployed("gpu")
    ollama, gateway = parts(gpu)
    resources = ollama["resources"]

    # The API server requires request and limit of an extended resource to be equal.
    assert resources["requests"]["amd.com/gpu"] == resources["limits"]["amd.com/gpu"] == "1"
    assert "amd.com/gpu" not in json.dumps(gateway["resources"])
    assert pod(gpu)["securityContext"]["supplementalGroups"] == [44, 993]
    assert not [volume for volume in pod(gpu)["volumes"] if "hostPath" in volume]
    assert "privileged" not in json.dumps(pod(gpu))


def test_a_profile_changes_only_ollamas_environment_and_adds_the_gpu_alerts() -> None:
    cpu, gpu = deployed(), deployed("gpu")
    different = {
        key
        for key in cpu.resources.keys() | gpu.resources.keys()
        if key not in cpu.resources
        or cpu[key].inputs != getattr(gpu.resources.get(key), "inputs", 0)
    }

    assert different == {DEPLOYMENT, RULE}
    before, after = (environment(parts(deployment)[0]) for deployment in (cpu, gpu))
    changed_names = {name for name in after if before.get(name) != after[name]}
    assert changed_names == set(PROFILES["hx370"].environment)


def test_only_the_gpu_of_ollamas_node_counts() -> None:
    raw = on_node(gpu_config())
    raw["nodes"]["spare"] = stack_config("home")["nodes"]["evo4t"] | {"address": "192.168.1.99"}
    assert read(raw).gpu_memory(read(raw).ollama)

    raw["ollama"]["node"] = "spare"
    settings = read(raw)
    assert settings.gpu_memory(settings.ollama) is None
    assert settings.gpu(settings.ollama) is None
    assert settings.profile(settings.ollama).device is None


def test_the_plan_has_the_gpus_memory_less_what_ollama_leaves_free() -> None:
    settings = read(stack_config("home"))
    assert settings.gpu_memory(settings.ollama) is None
    # 46Gi, of which the profile keeps 1Gi free.
    settings = read(gpu_config())
    assert (memory := settings.gpu_memory(settings.ollama)) == 45 * 1024**3
    assert plan(settings, RESERVED).servers["ollama"].on_gpu < memory


def test_models_that_the_gpu_cannot_hold_are_refused() -> None:
    raw = gpu_config()
    # Enough for each model, not for codellama's context beside another one.
    raw["nodes"]["evo4t"]["gpu"]["memory"] = "14Gi"
    raw["ollama"]["loaded_models"] = 2

    with pytest.raises(SettingsError, match=r"loaded_models: got 2, .* more than the GPU's"):
        read(raw)


def test_the_profile_cpu_deploys_the_same_as_without_a_gpu() -> None:
    raw = gpu_config()
    raw["nodes"]["evo4t"]["profile"] = "cpu"
    cpu = deploy_program("home", raw)

    assert {key: resource.inputs for key, resource in cpu.resources.items()} == {
        key: resource.inputs for key, resource in deployed().resources.items()
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
def test_a_missing_or_invalid_gpu_setting_is_one_line(
    path: str, value: object, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(changed(path, value, gpu_config()))
    (line,) = str(caught.value).splitlines()
    assert message in line
