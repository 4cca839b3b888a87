"""Code completed in an editor: what `ide_config` says, asked of the real page as Continue does."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from page import ask
from real_lab import Server

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def key(server: Server) -> Iterator[str]:
    """An API key of the admin's, made as the page makes it."""
    path, token = f"{server.page}/api/v1/auths/api_key", server.token()
    status, text = ask("POST", path, {}, token)
    assert status == 200, text
    yield json.loads(text)["api_key"]
    ask("DELETE", path, token=token)


@pytest.fixture(scope="module")
def model(server: Server) -> dict[str, Any]:
    """The model of the output, its page reached from this machine."""
    outputs = server.engine.outputs()
    (model,) = yaml.safe_load(outputs["ide_config"][0])["models"]
    page, below, rest = model["apiBase"].partition("/ollama")
    assert page in outputs["open_webui_urls"][0]
    return {**model, "apiBase": server.page + below + rest}


def asked(model: dict[str, Any]) -> dict[str, Any]:
    """The body of `_getGenerateOptions` in Continue's core/llm/llms/Ollama.ts, for codellama."""
    options = model["defaultCompletionOptions"]
    return {
        "model": model["model"],
        "prompt": "<PRE> def add(a, b):\n    <SUF>\n    return total\n <MID>",
        "raw": True,
        "options": {
            "temperature": 0.01,
            # Ollama breaks off what repeats a token 30 times, which noise at 0.01 does.
            "num_predict": min(options["maxTokens"], 24),
            "stop": ["<PRE>", "<SUF>", "<MID>", "<EOT>"],
            "num_ctx": options["contextLength"],
        },
        "keep_alive": 1800,
        "stream": True,
    }


def test_an_editor_gets_a_completion_in_pieces(
    server: Server, key: str, model: dict[str, Any]
) -> None:
    status, text = ask("POST", f"{model['apiBase']}/api/show", {"name": model["model"]}, key)
    assert status == 200, text

    status, text = ask("POST", f"{model['apiBase']}/api/generate", asked(model), key)

    assert status == 200, text
    # Not splitlines: the noise of this model has characters that only Python takes for an end.
    events = [json.loads(line) for line in text.split("\n") if line]
    assert len([event for event in events if event["response"]]) > 1
    assert events[-1]["done"] is True
    assert events[-1]["prompt_eval_count"] > 0
    # It stayed loaded with the server's own context.
    contexts = {loaded["name"]: loaded["context_length"] for loaded in server.loaded()}
    assert contexts[model["model"]] == model["defaultCompletionOptions"]["contextLength"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/models"),
        ("GET", "/ollama/api/tags"),
        ("POST", "/api/chat/completions"),
        ("GET", "/api/v1/users/"),
        ("GET", "/api/v1/auths/api_key"),
    ],
)
def test_the_key_is_good_for_nothing_else(server: Server, key: str, method: str, path: str) -> None:
    status, _ = ask(method, server.page + path, {} if method == "POST" else None, key)

    assert status == 403
