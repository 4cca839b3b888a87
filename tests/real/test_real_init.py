"""`make init` at a terminal, with Jobs that a kubelet runs: the node's disks and networks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_lab import Server
from terminal import init_at_a_terminal

from config import read
from config.stack_file import project_keys, read_config
from ops.init_file import RESERVED

pytestmark = pytest.mark.faults

DISKS = {"/mnt/new": 40, "/mnt/spare": 20}
"""Sizes in GiB of disks with a file system of their own, by mount point."""


@pytest.fixture
def disks(server: Server) -> Iterator[None]:
    """Mount the DISKS on the node."""
    node = server.cluster.node
    for path, size in DISKS.items():
        image = server.cluster.folder / f"{Path(path).name}.ext4"
        # A sparse file.
        node.run("truncate", "-s", f"{size}G", image)
        node.run("mkfs.ext4", "-q", image)
        node.run("mkdir", path)
        node.run("mount", "-o", "loop", image, path)
    yield
    for path in DISKS:
        node.run("sh", "-c", f"umount {path} || true")


@pytest.mark.usefixtures("disks")
def test_what_the_node_has_is_offered_and_the_directories_are_created(
    server: Server, tmp_path: Path
) -> None:
    # Those that the stack has: the node itself gets no answer from them.
    node, pool = server.cluster.node, "192.168.1.101-192.168.1.102"
    answers = ["y", *[""] * 8, *["y"] * 3]

    code, screen = init_at_a_terminal(server.cluster, tmp_path, answers)

    assert code == 0, screen
    settings = read(project_keys(read_config(tmp_path / "Pulumi.new.yaml")), RESERVED)
    assert settings.nodes["evo4t"].disk.path == "/mnt/new"
    assert settings.nodes["evo4t"].disk.size in ("38Gi", "39Gi")
    assert (settings.network.lan, settings.network.pool) == ("192.168.1.0/24", pool)
    assert settings.webui.tailnet_address == "100.102.114.95"
    assert settings.webui.backup
    paths = ("/mnt/new/open-webui", "/mnt/new/models/homelab", "/mnt/new/prometheus")
    assert node.run("stat", "-c", "%u:%g %a", *paths, settings.webui.backup.volume.path) == (
        "1000:1000 750\n1000:1000 750\n1000:2000 770\n1000:1000 700\n"
    )

    node.run("umount", "/mnt/spare")
    code, screen = init_at_a_terminal(server.cluster, tmp_path, ["y", "", *["y"] * 2])

    assert code == 0, screen
    assert "Pulumi.new.yaml: nothing to change" in screen
    assert "/mnt/spare: not mounted" in screen
    assert node.run("ls", "/mnt/spare") == ""
