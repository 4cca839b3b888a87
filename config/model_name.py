"""Comparison of models' names; imports nothing, because programs in pods use it by a link."""


def canonical(name: str) -> str:
    """Return the name as `/api/tags` writes it, in lower case: `Library/Qwen3` is `qwen3:latest`.

    Ollama's default host and namespace are removed, its default tag added (types/model/name.go).
    """
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
