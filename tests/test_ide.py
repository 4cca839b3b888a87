"""What an editor is told, and what an API key is good for."""

from typing import Any

import pytest
import yaml
from harness import Deployment, deploy_program, deployed, stack_config

from config.ide import API_PATHS, completion_model

HOME = deployed()


def with_models(*models: str, **webui: Any) -> Deployment:
    config = stack_config("home")
    config["ollama"]["models"] = [*models]
    config["webui"] |= {"task_model": None, **webui}
    return deploy_program("home", config)


def variables(lab: Deployment) -> dict[str, str]:
    page = lab["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    (container,) = page["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container["env"]}


def test_the_editor_is_led_to_the_page_with_the_context_of_the_server() -> None:
    told = HOME.outputs["ide_config"]
    (model,) = yaml.safe_load(told)["models"]
    ollama = HOME["kubernetes:apps/v1:Deployment::ollama-deployment"].inputs
    (server,) = ollama["spec"]["template"]["spec"]["initContainers"]
    settings = {one["name"]: one["value"] for one in server["env"]}

    assert model["apiBase"] == f"{HOME.outputs['open_webui_urls'][0]}/ollama"
    assert model["model"] == "codellama:7b"
    assert model["roles"] == ["autocomplete"]
    context = model["defaultCompletionOptions"]["contextLength"]
    assert context == int(settings["OLLAMA_CONTEXT_LENGTH"])
    # The key is in a file of its own.
    assert model["apiKey"] == "${{ secrets.HOMELAB_API_KEY }}"
    assert "HOMELAB_API_KEY=sk-" in told


def test_an_api_key_is_good_for_completions_only() -> None:
    settings = variables(HOME)

    assert settings["ENABLE_API_KEYS"] == "true"
    assert settings["ENABLE_API_KEYS_ENDPOINT_RESTRICTIONS"] == "true"
    assert settings["API_KEYS_ALLOWED_ENDPOINTS"] == ",".join(API_PATHS)


def test_without_such_a_model_or_an_address_there_are_no_keys() -> None:
    proxy = {
        "lan_address": None,
        "tailnet_address": None,
        "trusted_email_header": "X-Email",
        "origins": ["https://chat.example.org"],
    }
    for lab in (with_models("llama3.2:3b"), with_models("codellama:7b", **proxy)):
        assert "ide_config" not in lab.outputs
        assert "ENABLE_API_KEYS" not in variables(lab)


@pytest.mark.parametrize(
    ("names", "able"),
    [
        (["llama3.2:3b", "codellama:13b-code", "codellama:7b"], "codellama:13b-code"),
        (["codellama:34b", "codellama:70b", "codellama:7b-python"], None),
        (["my-codellama:7b"], None),
    ],
)
def test_only_what_was_trained_for_it_completes_code(names: list[str], able: str | None) -> None:
    assert completion_model(names) == able
