"""An `up` that is killed on the real node, and the one after it."""

import json
import subprocess
import sys

from real_lab import Server
from waiting import eventually

from sandbox.engine import PROJECT

UP = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from sandbox.build import build
from sandbox.engine import Engine

pytestmark = pytest.mark.faults
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

    # Of an object that was changed when it was killed, the state may still differ once.
    assert server.engine.up(lambda _: None).keys() <= {"same", "update"}
    assert eventually(server.answers)
    assert server.chat(MODEL, "Hello?", server.token())["text"]
    (context,) = {model["context_length"] for model in server.loaded() if model["name"] == MODEL}
    assert context == 4096
