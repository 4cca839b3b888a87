"""A model's name as it is compared; imports nothing, so that programs in pods go by it as well."""


def canonical(name: str) -> str:
    """Return the name as `/api/tags` writes it, in lower case: `Library/Qwen3` is `qwen3:latest`.

    Ollama's own defaults are left out and filled in: host, namespace and tag (types/model/name.go).
    """
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"
