"""One simulated cluster for all tests of this folder."""

from collections.abc import Callable, Iterator
from subprocess import Popen

import pytest
from kubernetes.dynamic import DynamicClient

from sandbox.build import Tools
from sandbox.cluster import Cluster, Node

Connect = Callable[[Cluster], DynamicClient]


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
def kube(cluster: Cluster, connect: Connect) -> DynamicClient:
    """The dynamic client of the running cluster."""
    return connect(cluster)


@pytest.fixture
def bystander() -> Iterator[Popen[bytes]]:
    """A process that the cluster did not start."""
    with Popen(["sleep", "600"]) as process:
        yield process
        process.kill()
