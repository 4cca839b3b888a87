"""One cluster for all tests here, and the official client to look at it."""

import socket
import time
from collections.abc import Callable, Iterator
from subprocess import Popen
from typing import Any

import pytest
from house_lab import House
from kubernetes import config
from kubernetes.dynamic import DynamicClient

from sandbox.build import Tools, build
from sandbox.cluster import Cluster, Node

Eventually = Callable[[Callable[[], Any]], Any]
Connect = Callable[[Cluster], DynamicClient]


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The project's own tools; they are built once, which takes a quarter of an hour."""
    return build()


@pytest.fixture(scope="session")
def own_address() -> str:
    """The machine's address on its own network, without anything being sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture(scope="session")
def home() -> Node:
    """A node like the server at home."""
    return Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")


@pytest.fixture(scope="package")
def cluster(
    tools: Tools, home: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A running cluster with that one node."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), tools)
    cluster.start([home])
    yield cluster
    cluster.stop()


@pytest.fixture(scope="package")
def house(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The stack on a cluster of its own, as each test leaves it."""
    house = House(tmp_path_factory.mktemp("house"), tools)
    yield house
    house.cluster.remove()


@pytest.fixture(scope="session")
def connect() -> Connect:
    """Makes the official dynamic client of a cluster, from its kubeconfig alone."""

    def make(cluster: Cluster) -> DynamicClient:
        api = config.new_client_from_config(  # type: ignore[no-untyped-call]
            str(cluster.kubeconfig), cluster.context
        )
        cache = str(cluster.folder / "discovery.json")
        return DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]

    return make


@pytest.fixture
def kube(cluster: Cluster, connect: Connect) -> DynamicClient:
    """The official dynamic client of the running cluster."""
    return connect(cluster)


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Gives the first true answer, or after 20 seconds the last one."""

    def ask(what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 20
        while not (answer := what()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return answer

    return ask


@pytest.fixture
def bystander() -> Iterator[Popen[bytes]]:
    """A process that is none of the cluster's business."""
    with Popen(["sleep", "600"]) as process:
        yield process
        process.kill()
