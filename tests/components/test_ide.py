"""The editor's configuration, and the endpoints that an API key allows."""

from typing import Any

import pytest
import yaml
from harness import Deployment, deploy_program, deployed, environment, stack_config

from config.ide import API_PATHS, completion_model


def with_models(*models: str, **webui: Any) -> Deployment:
    config = stack_config("home")
    config["ollama"]["models"] = [*models]
    config["webui"] |= {"task_model": None, **webui}
    return deploy_program("home", config)


def variables(deployment: Deployment) -> dict[str, Any]:
    page = deployment["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    (container,) = page["spec"]["template"]["spec"]["containers"]
    return environment(container)


def test_the_editors_configuration_has_the_pages_url_and_ollamas_context_length() -> None:
    home = deployed()
    text = home.outputs["ide_config"]
    (model,) = yaml.safe_load(text)["models"]
    ollama = home["kubernetes:apps/v1:Deployment::ollama-deployment"].inputs
    (server,) = ollama["spec"]["template"]["spec"]["initContainers"]

    assert model["apiBase"] == f"{home.outputs['open_webui_urls'][0]}/ollama"
    assert model["model"] == "codellama:7b"
    assert model["roles"] == ["autocomplete"]
    context = model["defaultCompletionOptions"]["contextLength"]
    assert context == int(environment(server)["OLLAMA_CONTEXT_LENGTH"])
    # The key is a secret, in the editor's own file for secrets.
    assert model["apiKey"] == "${{ secrets.HOMELAB_API_KEY }}"
    assert "HOMELAB_API_KEY=sk-" in text


def test_an_api_key_allows_only_completions() -> None:
    settings = variables(deployed())

    assert settings["ENABLE_API_KEYS"] == "true"
    assert settings["ENABLE_API_KEYS_ENDPOINT_RESTRICTIONS"] == "true"
    assert settings["API_KEYS_ALLOWED_ENDPOINTS"] == ",".join(API_PATHS)


def test_without_a_completion_model_or_an_address_there_are_no_api_keys() -> None:
    proxy = {
        "lan_address": None,
        "tailnet_address": None,
        "trusted_email_header": "X-Email",
        "origins": ["https://chat.example.org"],
    }
    for deployment in (with_models("llama3.2:3b"), with_models("codellama:7b", **proxy)):
        assert "ide_config" not in deployment.outputs
        assert "ENABLE_API_KEYS" not in variables(deployment)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["llama3.2:3b", "codellama:13b-code", "codellama:7b"], "codellama:13b-code"),
        (["codellama:34b", "codellama:70b", "codellama:7b-python"], None),
        (["my-codellama:7b"], None),
    ],
)
def test_only_a_model_with_fill_in_the_middle_completes_code(
    names: list[str], expected: str | None
) -> None:
    assert completion_model(names) == expected
