"""The node loses its power, and comes back by itself, with its disk or without."""

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


def test_a_power_cut_takes_only_an_answer_and_opens_no_sign_up(server: Server) -> None:
    token, chat = server.token(), server.keep_chat()
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
        server.cut()
        streaming.result()
    server.start()

    # Whoever had signed in still is.
    assert server.title(chat) == "kept"
    assert eventually(server.answers)
    assert server.chat(MODEL, "Still there?", token)["text"]
    # Open WebUI itself closes sign-up with the first account, and opens it at its next start.
    stranger = {"name": "X", "email": "x@example.org", "password": "long enough 1"}
    assert ask("POST", f"{server.page}/api/v1/auths/signup", stranger)[0] == 403


def waiting(server: Server) -> set[tuple[str, Any]]:
    """First word of a pod's name, and time, of each event that it has no volume."""
    return {
        (event["involvedObject"]["name"].partition("-")[0], event["lastTimestamp"])
        for event in server.objects("v1", "Event")
        if event["metadata"]["namespace"] == "ollama-stack" and event["reason"] == "FailedMount"
    }


@pytest.mark.faults
def test_pods_wait_for_a_data_disk_that_is_missing_and_find_their_data(server: Server) -> None:
    chat, cluster, before = server.keep_chat(), server.cluster, waiting(server)
    server.cut()
    disks, cluster.disks = cluster.disks, {}
    try:
        cluster.start()
    finally:
        cluster.disks = disks
    # As it is where nothing is mounted on it.
    cluster.node.run("mkdir", "/mnt/evo4t")

    assert eventually(lambda: {pod for pod, _ in waiting(server) - before} >= {"ollama", "open"})
    assert cluster.node.run("ls", "-A", "/mnt/evo4t") == ""
    mounted = [str(disks["/mnt/evo4t"]), "/mnt/evo4t"]
    cluster.node.run("mount", "--bind", *mounted)

    cluster.wait_for_page()
    server.connect()
    assert server.title(chat) == "kept"
    assert Path(mounted[0], "open-webui", "webui.db").exists()
