"""Settings that depend on the machine that models run on."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How models run on a machine of this type; each value has its reason beside it."""

    environment: Mapping[str, str]
    """Ollama's environment variables that select its library and device."""
    device: str | None = None
    """Extended resource of the GPU's device plugin; None if models run on the CPU."""
    context_limit: int | None = None
    """Maximum of `ollama.context_length`, in tokens."""
    prompt_cache_limit: str | None = None
    """Maximum of `ollama.prompt_cache`, a quantity such as `2Gi`."""
