"""Configuration of code completion in an editor, by the Continue extension."""

from collections.abc import Iterable

import yaml

from config.model_name import canonical

API_PATHS = ("/ollama/api/generate", "/ollama/api/show")
"""Paths of the chat page that Continue requests; an API key allows no others."""

INFILL = ("codellama:7b", "codellama:13b")
"""Name prefixes of models trained to fill in the middle: Code Llama 7B and 13B, except their
Python variants (arXiv 2308.12950)."""


def completion_model(names: Iterable[str]) -> str | None:
    """Return the first of these models that fills in the middle, or None."""
    for name in names:
        if canonical(name).startswith(INFILL) and "-python" not in canonical(name):
            return name
    return None


def ide_config(page: str, model: str, context_length: int) -> str:
    """Return Continue's `config.yaml`, with the URL `page` of the chat page.

    Continue adds Code Llama's infill tokens itself and sends raw prompts, so Ollama does not apply
    the model's chat template.
    """
    settings = {
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
                # Ollama reloads the model for a request with another context length.
                "defaultCompletionOptions": {"contextLength": context_length, "maxTokens": 128},
            }
        ],
    }
    header = (
        "# For ~/.continue/config.yaml. Create an API key on the chat page (Settings, Account)\n"
        "# and put it in ~/.continue/.env as HOMELAB_API_KEY=sk-...\n"
    )
    return header + yaml.safe_dump(settings, sort_keys=False)
