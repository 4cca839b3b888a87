"""The data disk is full: what is lost, what is seen, and what happens when there is room again."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from harness import read
from page import ask
from real_lab import Server
from waiting import eventually

from ops import status_metrics
from ops.cluster import Cluster, UnreadableError

pytestmark = pytest.mark.faults

MOUNT = "/mnt/evo4t"
FILLER = f"{MOUNT}/filler"
ROOM = 300 * 2**20
"""Bytes that are free on the disk before it is filled."""


@pytest.fixture
def small(metrics: Server) -> Iterator[Server]:
    """The stack on a small disk with a file system of its own, with all the data."""
    cluster = metrics.cluster
    metrics.cut()
    disks, cluster.disks = cluster.disks, {}
    source, image = disks.pop(MOUNT), cluster.folder / "evo4t.ext4"
    cluster.start()
    size = int(cluster.node.run("du", "-sb", str(source)).split()[0]) * 5 // 4 + ROOM
    cluster.node.run("truncate", "-s", str(size), str(image))
    cluster.node.run("mkfs.ext4", "-q", "-m", "0", "-d", str(source), str(image))
    cluster.node.run("mkdir", MOUNT)
    cluster.node.run("mount", "-o", "loop", str(image), MOUNT)
    cluster.wait_for_page()
    metrics.connect()
    assert eventually(metrics.measures)
    yield metrics
    metrics.cut()
    cluster.disks = {MOUNT: source, **disks}
    metrics.start()


def test_a_full_data_disk_is_named_and_loses_nothing(small: Server) -> None:
    chat, node = small.keep_chat(), small.cluster.node
    cluster = Cluster(small.cluster.context, small.cluster.kubeconfig)

    def used() -> float:
        """Share of the data disk that `make status` shows as used."""
        with suppress(UnreadableError):
            for line in status_metrics.disks(cluster, read(small.config)):
                if line.fact["mount"] == MOUNT:
                    return float(line.fact["used"] / line.fact["bytes"])
        return 0

    assert eventually(lambda: 0 < used() < 0.9)
    small.hurry_alerts()
    free = int(node.run("df", "--output=avail", "-B1", MOUNT).split()[-1])
    node.run("fallocate", "-l", str(free - 20 * 2**20), FILLER)
    assert eventually(lambda: used() > 0.9)
    assert eventually(lambda: small.alerts().get("DataDiskFull") == "firing")

    # The rest, to the last byte.
    node.run("sh", "-c", f"cat /dev/zero >>{FILLER} || true")
    body: dict[str, Any] = {"chat": {"title": "x" * 5_000_000, "models": [], "messages": []}}
    status, text = ask("POST", f"{small.page}/api/v1/chats/new", body, small.token())
    assert status >= 400, text
    assert small.title(chat) == "kept"
    # Nothing that is measured is kept any more, so every other alert ends.
    assert eventually(lambda: small.alerts().get("NothingMeasured") == "firing", 600)
    pods = small.cluster.client().resources.get(api_version="v1", kind="Pod")
    pods.delete(namespace="ollama-stack", label_selector="app.kubernetes.io/name=open-webui")

    node.run("rm", FILLER)
    assert eventually(lambda: "NothingMeasured" not in small.alerts())
    assert eventually(lambda: _reads(small, chat) == "kept", 600)
    small.keep_chat()
    check = (
        "import sqlite3; print(sqlite3.connect('{}').execute('PRAGMA integrity_check').fetchall())"
    )
    found = node.run("python3", "-c", check.format(f"{MOUNT}/open-webui/webui.db"))
    assert json.loads(found.replace("'", '"').replace("(", "[").replace(",)", "]")) == [["ok"]]


def _reads(server: Server, chat: str) -> str | None:
    """The title of a chat; None while the page does not answer."""
    with suppress(OSError):
        return server.title(chat)
    return None
