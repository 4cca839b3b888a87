"""The node loses its power, and comes back by itself, with its disk or without."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from page import ask
from real_lab import Server
from waiting import eventually

MODEL = "gemma3:4b"


def cut(server: Server) -> None:
    """End everything on the node at once."""
    os.kill(server.cluster.holders["node"], signal.SIGKILL)
    assert eventually(lambda: "kubelet" not in server.cluster.node.processes.alive())


@pytest.fixture
def chat(server: Server) -> str:
    """Where a chat is that the admin has kept."""
    wanted = {"chat": {"title": "kept", "models": [MODEL], "messages": []}}
    status, text = ask("POST", f"{server.page}/api/v1/chats/new", wanted, server.token())
    assert status == 200, text
    return f"{server.page}/api/v1/chats/{json.loads(text)['id']}"


def test_a_power_cut_takes_only_the_answer_that_was_streaming(server: Server, chat: str) -> None:
    token = server.token()
    wanted = {"model": MODEL, "prompt": "x", "options": {"num_predict": 100_000}}

    def stream() -> None:
        # Noise may end at once.
        with suppress(OSError, HTTPException):
            while True:
                ask("POST", f"{server.gateway}/api/generate", wanted)

    assert eventually(server.answers)
    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(stream)
        assert eventually(lambda: MODEL in {model["name"] for model in server.loaded()})
        cut(server)
        streaming.result()
    server.start()

    # Whoever had signed in still is.
    status, text = ask("GET", chat, token=token)
    assert (status, json.loads(text)["title"]) == (200, "kept")
    assert eventually(server.answers)
    assert server.chat(MODEL, "Still there?", token)["text"]


def test_pods_wait_for_a_data_disk_that_is_missing_and_find_their_data(
    server: Server, chat: str
) -> None:
    token, cluster = server.token(), server.cluster
    cut(server)
    disks, cluster.disks = cluster.disks, {}
    try:
        cluster.start()
    finally:
        cluster.disks = disks
    # As it is where nothing is mounted on it.
    cluster.node.run("mkdir", "/mnt/evo4t")

    def waiting() -> dict[str, Any]:
        """The reasons of the events of pods that have no volume."""
        events = [
            event
            for event in server.objects("v1", "Event")
            if event["metadata"]["namespace"] == "ollama-stack" and event["reason"] == "FailedMount"
        ]
        return {event["involvedObject"]["name"].partition("-")[0]: event for event in events}

    assert eventually(lambda: waiting().keys() >= {"ollama", "open"})
    assert cluster.node.run("ls", "-A", "/mnt/evo4t") == ""
    mounted = [str(disks["/mnt/evo4t"]), "/mnt/evo4t"]
    cluster.node.run("mount", "--bind", *mounted)

    cluster.wait_for_page()
    server.connect()
    assert ask("GET", chat, token=token)[0] == 200
    assert Path(mounted[0], "open-webui", "webui.db").exists()
