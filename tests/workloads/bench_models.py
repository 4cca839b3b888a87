"""What the model Job takes on the real Ollama when nothing is to be done, as a row of a table."""

import tempfile
from pathlib import Path

from bench import row, seconds
from model_lab import lab, registry

from sandbox.programs import install

MODELS = ({"name": "llama3.2:3b", "load": True}, "codellama:7b", "gemma3:4b", "nomic:v1.5")
VARIANT = {"name": "mine:16k", "base": "codellama:7b", "parameters": {"num_ctx": 1024}}
RUNS = 5


def main() -> None:
    """Run it once so that all is there, then again; the longest run counts."""
    with tempfile.TemporaryDirectory() as folder:
        (place := Path(folder, "registry")).mkdir()
        with (
            registry(place) as source,
            lab(install().ollama, Path(folder, "house"), source.environment) as house,
        ):
            assert house.run(*MODELS, VARIANT).code == 0
            longest = max(seconds(lambda: house.run(*MODELS, VARIANT)) for _ in range(RUNS))
    row(f"model Job, nothing to do, longest of {RUNS}", f"{longest:.2f} s", "2 s")


if __name__ == "__main__":
    main()
