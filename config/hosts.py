"""Profiles: settings that depend on the machine that models run on."""

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


PROFILES = {
    # Any machine, on the CPU. There is no library of this name, so Ollama skips GPU discovery and
    # starts at once.
    "cpu": Profile(environment={"OLLAMA_LLM_LIBRARY": "cpu"}),
    # AMD Ryzen AI 9 HX 370, on its Radeon 890M (gfx1150) through Vulkan. Never run on this
    # hardware: from Ollama's source (0.33.0-rc2) and the reports named beside each value.
    "hx370": Profile(
        environment={
            # Not ROCm: on this chip with 96 GB it saw only the BIOS's carve-out and was OOM-killed;
            # Vulkan saw all 53 GB (llama.cpp #19818). Without a Vulkan device Ollama still falls
            # back to the CPU, hence the alert ModelOnCPU.
            "OLLAMA_LLM_LIBRARY": "vulkan",
            # On by default since 0.30, but `ollama.image` may pin an older version.
            "OLLAMA_VULKAN": "1",
            # Ollama ignores integrated GPUs without it (discover/runner.go; ollama #16433).
            "OLLAMA_IGPU_ENABLE": "1",
            # Bytes left free on the GPU: Vulkan only estimates free memory without CAP_PERFMON,
            # which a restricted pod lacks.
            "OLLAMA_GPU_OVERHEAD": str(1024**3),
        },
        # AMD's device plugin mounts /dev/kfd and /dev/dri, so the pod needs neither privileges nor
        # a hostPath, whose devices it could not open anyway (kubernetes #5607).
        device="amd.com/gpu",
        # Prompts are processed at 322 (Qwen3-8B) to 390 (gpt-oss-20b) tokens/s, measured on
        # DDR5-5600 (msf.github.io): 32768 tokens take 84 to 102 s; FirstTokenSlow fires at 120 s.
        context_limit=32768,
        # llama.cpp's default, 8 GiB for each model, is not planned for (ollama #18264), and GPU
        # memory here is system memory that no pod's limit counts (llama.cpp #20472).
        prompt_cache_limit="2Gi",
    ),
}
"""Profiles by the name in `nodes.<name>.profile`."""
