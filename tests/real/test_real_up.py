"""An `up` that is killed on the real node, and the one after it."""

import json
import subprocess
import sys
from contextlib import suppress
from threading import Timer

import psutil
import pytest
from doctor_lab import connect
from pulumi.automation import CommandError
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


def require_context(server: Server, context: int) -> None:
    """Assert that Ollama loads a model with this context, and that an `up` changes nothing."""
    deployments = connect(server.cluster).resources.get(api_version="apps/v1", kind="Deployment")

    def ready() -> bool:
        status = deployments.get(name="ollama", namespace="ollama-stack").status
        return bool(status.readyReplicas)

    # The provider takes what an interrupted `up` has changed for complete before it is ready; and
    # what is not ready is updated, without a difference, to be waited for.
    assert eventually(ready)
    assert server.engine.up(lambda _: None).keys() == {"same"}
    assert server.chat(MODEL, "Hello?", server.token())["text"]
    contexts = {model["context_length"] for model in server.loaded() if model["name"] == MODEL}
    assert contexts == {context}


def test_an_up_that_is_killed_is_taken_up_by_the_next(server: Server) -> None:
    ollama = server.config["ollama"]
    ollama["context_length"] = 4096
    words = [sys.executable, "-c", UP, str(server.cluster.folder), json.dumps(server.config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=PROJECT) as killed:
        assert killed.stdout
        lines = iter(killed.stdout)
        assert any("ollama-deployment updating" in line for line in lines)
        # The CLI and its plugins would go on.
        engine = psutil.Process(killed.pid)
        for process in [*engine.children(recursive=True), engine]:
            process.kill()

    server.up()

    require_context(server, 4096)


def test_an_up_during_which_the_api_server_is_away_is_made_good_by_the_next(
    server: Server,
) -> None:
    server.config["ollama"]["context_length"] = 2048
    run, away = server.cluster.node.run, list[Timer]()

    def say(line: str) -> None:
        if "ollama-deployment updating" in line and not away:
            run("pkill", "-STOP", "-f", "kube apiserver")
            away.append(Timer(60, run, ("pkill", "-CONT", "-f", "kube apiserver")))
            away[0].start()

    try:
        # It may wait, or give up.
        with suppress(CommandError):
            server.engine.up(say)
    finally:
        for timer in away:
            timer.join()
    assert away

    server.up()

    require_context(server, 2048)
