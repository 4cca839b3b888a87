"""One simulated cluster for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from sandbox.build import FOLDER, Tools
from sandbox.cache import link
from sandbox.cluster import Cluster, Node
from sandbox.toolchain import find_go


@pytest.fixture(scope="session")
def home() -> Node:
    """The node of the stack `home`."""
    return Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")


@pytest.fixture(scope="package")
def cluster(
    tools: Tools, home: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A running cluster with the node `home`."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), tools)
    cluster.start([home])
    yield cluster
    cluster.stop()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a cache that has Go alone."""
    go = find_go(FOLDER).parents[2]
    monkeypatch.setenv("HOMELAB_CACHE", str(tmp_path / "cache"))
    link(go, tmp_path / "cache" / "go" / go.name)


@pytest.fixture
def bystander() -> Iterator[Popen[bytes]]:
    """A process that the cluster did not start."""
    with Popen(["sleep", "600"]) as process:
        yield process
        process.kill()
