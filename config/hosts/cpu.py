"""Any machine: models run on the CPU. The default, and the only profile that is tested."""

from config.hosts.profile import Profile

PROFILE = Profile(
    environment={
        # There is no library of this name, so Ollama skips GPU discovery and starts at once.
        "OLLAMA_LLM_LIBRARY": "cpu",
    }
)
