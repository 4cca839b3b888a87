"""An `up` that is killed on the real node, and the one after it."""

import json
import subprocess
import sys

import pytest
from real_lab import Server
from waiting import eventually

from sandbox.engine import PROJECT

pytestmark = pytest.mark.faults

UP = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from sandbox.build import build
from sandbox.engine import Engine
folder = Path(sys.argv[1])
kubeconfig = folder / "kubeconfig"
cluster = SimpleNamespace(folder=folder, kubeconfig=kubeconfig, context="homelab-sandbox")
Engine(cluster, build(), config=json.loads(sys.argv[2])).up(lambda line: print(line, flush=True))
"""
MODEL = "gemma3:4b"


def test_an_up_that_is_killed_is_taken_up_by_the_next(server: Server) -> None:
    ollama = server.config["ollama"]
    ollama["context_length"] = 4096
    words = [sys.executable, "-c", UP, str(server.cluster.folder), json.dumps(server.config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as killed:
        assert killed.stdout
        lines = iter(killed.stdout)
        assert any("ollama-deployment updating" in line for line in lines)
        killed.kill()

    server.up()

    # What the killed one has changed, the provider takes for complete before it is ready; and what
    # is not ready is updated, without a difference, to be waited for.
    deployments = server.cluster.client().resources.get(api_version="apps/v1", kind="Deployment")

    def ready() -> bool:
        found = deployments.get(name="ollama", namespace="ollama-stack").status
        return bool(found.readyReplicas)

    assert eventually(ready)
    assert server.engine.up(lambda _: None).keys() == {"same"}
    assert server.chat(MODEL, "Hello?", server.token())["text"]
    (context,) = {model["context_length"] for model in server.loaded() if model["name"] == MODEL}
    assert context == 4096
