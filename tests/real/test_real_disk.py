"""The data disk is full, or mounted too late: what is lost, what is seen, and the way out."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from doctor_lab import connect
from harness import read
from page import ask
from real_lab import Server
from waiting import eventually

from ops import doctor_server, status_metrics
from ops.cluster import UnreadableError
from sandbox.real_cluster import DIRECTORIES

pytestmark = pytest.mark.faults

MOUNT = "/mnt/evo4t"
FILLER = f"{MOUNT}/filler"
ROOM = 8 * 2**30
"""Bytes that are free on the disk before it is filled."""


@pytest.fixture
def detached(metrics: Server) -> Iterator[tuple[Server, Path]]:
    """The stack on a node without a data disk, and an image of a small one with all the data."""
    cluster = metrics.cluster
    metrics.cut()
    disks, cluster.disks = cluster.disks, {}
    source, image = disks.pop(MOUNT), cluster.folder / "evo4t.ext4"
    cluster.start()
    size = int(cluster.node.run("du", "-sb", str(source)).split()[0]) * 5 // 4 + ROOM
    image.unlink(missing_ok=True)
    cluster.node.run("truncate", "-s", str(size), str(image))
    cluster.node.run("mkfs.ext4", "-q", "-m", "0", "-d", str(source), str(image))
    cluster.node.run("mkdir", MOUNT)
    yield metrics, image
    metrics.cut()
    cluster.disks = {MOUNT: source, **disks}
    metrics.start()
    # Brings back the durations of alerts, because the next test's alert fires after the real one.
    metrics.up()


@pytest.fixture
def small(detached: tuple[Server, Path]) -> Server:
    """The stack on a small disk with a file system of its own, with all the data."""
    server, image = detached
    server.cluster.node.run("mount", "-o", "loop", str(image), MOUNT)
    server.cluster.wait_for_page()
    server.connect()
    assert eventually(server.measures)
    return server


@pytest.fixture
def chat(metrics: Server) -> str:
    """A chat that the data disk has."""
    return metrics.keep_chat()


def test_a_disk_mounted_over_running_pods_is_seen_and_one_command_shows_the_chats(
    chat: str, detached: tuple[Server, Path]
) -> None:
    server, image = detached
    cluster, node = server.cluster, server.cluster.node
    # The mount point is in memory here, and on a server a directory of the system disk.
    below = cluster.folder / "below"
    for name in DIRECTORIES:
        (below / name).mkdir(parents=True)
    node.run("mount", "--bind", str(below), MOUNT)
    cluster.wait_for_page()
    server.connect()
    assert server.title_again(chat) is None
    assert eventually(server.measures)
    server.hurry_alerts()

    node.run("mount", "-o", "loop", str(image), MOUNT)

    assert eventually(lambda: server.alerts().get("VolumeNotOnDisk") == "firing")
    claims = {problem.partition(":")[0] for problem in server.problems(doctor_server.volumes)}
    assert "ollama-stack/open-webui" in claims
    # As in docs/runbook.md.
    names = "app.kubernetes.io/name in (open-webui, ollama, prometheus)"
    subprocess.run([*cluster.kubectl, "delete", "pods", "-A", "-l", names], check=True)

    assert eventually(lambda: server.title_again(chat) == "kept", 600)
    assert eventually(server.measures)
    assert eventually(lambda: not server.problems(doctor_server.volumes))


def test_a_disk_that_fills_at_a_gigabyte_a_minute_is_told_while_samples_are_stored(
    small: Server,
) -> None:
    node, flag = small.cluster.node, "/run/filling"
    fill = f"fallocate -l $((i+=100))M {FILLER}; do sleep 6; done; rm {FILLER}"
    node.run("touch", flag)
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(node.run, "sh", "-c", f"i=0; while test -e {flag} && {fill}")
        try:
            assert eventually(lambda: small.alerts().get("DataDiskFull") == "firing", 600)
            assert not filling.done()
            # The disk before it has samples for five minutes more.
            assert small.value(f'min(node_filesystem_avail_bytes{{mountpoint="{MOUNT}"}})')
            assert "NothingMeasured" not in small.alerts()
        finally:
            node.run("rm", "-f", flag)
    assert eventually(lambda: "DataDiskFull" not in small.alerts(), 900)


def test_a_full_data_disk_is_named_and_loses_nothing(small: Server) -> None:
    chat, node = small.keep_chat(), small.cluster.node

    def used() -> float:
        """Share of the data disk that `make status` shows as used."""
        with suppress(UnreadableError):
            for line in status_metrics.disks(small.live(), read(small.config)):
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
    pods = connect(small.cluster).resources.get(api_version="v1", kind="Pod")
    pods.delete(namespace="ollama-stack", label_selector="app.kubernetes.io/name=open-webui")

    node.run("rm", FILLER)
    assert eventually(lambda: "NothingMeasured" not in small.alerts())
    assert eventually(lambda: small.title_again(chat) == "kept", 600)
    small.keep_chat()
    check = (
        "import sqlite3; print(sqlite3.connect('{}').execute('PRAGMA integrity_check').fetchall())"
    )
    rows = node.run("python3", "-c", check.format(f"{MOUNT}/open-webui/webui.db"))
    assert json.loads(rows.replace("'", '"').replace("(", "[").replace(",)", "]")) == [["ok"]]
