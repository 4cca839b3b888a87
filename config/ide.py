"""What an editor is told so that it completes code with a model of the house."""

from collections.abc import Iterable

import yaml

from config.model_name import canonical

API_PATHS = ("/ollama/api/generate", "/ollama/api/show")
"""What the editor's plug-in asks the page for, and all that an API key is good for."""

FILLS_IN = ("codellama:7b", "codellama:13b")
"""Beginnings of the names of models that were trained to fill in the middle: of Code Llama the
7B and 13B ones, and of these not the ones for Python (arXiv 2308.12950)."""


def completion_model(names: Iterable[str]) -> str | None:
    """The first of these models that fills in the middle, or None."""
    for name in names:
        if canonical(name).startswith(FILLS_IN) and "-python" not in canonical(name):
            return name
    return None


def ide_config(page: str, model: str, context_length: int) -> str:
    """The `config.yaml` of Continue, which is to ask the `page` for completions.

    It knows Code Llama's marks and sends them raw, so the model's template for chats is not used.
    """
    told = {
        "name": "homelab",
        "version": "1.0.0",
        "schema": "v1",
        "models": [
            {
                "name": f"{model} at home",
                "provider": "ollama",
                "model": model,
                "apiBase": f"{page}/ollama",
                "apiKey": "${{ secrets.HOMELAB_API_KEY }}",
                "roles": ["autocomplete"],
                # Another context than the server's would load the model anew for each request.
                "defaultCompletionOptions": {"contextLength": context_length, "maxTokens": 128},
            }
        ],
    }
    how = (
        "# For ~/.continue/config.yaml. The key is made at the page: Settings, Account, API keys;\n"
        "# it belongs into ~/.continue/.env as HOMELAB_API_KEY=sk-...\n"
    )
    return how + yaml.safe_dump(told, sort_keys=False)
