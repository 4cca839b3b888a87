"""The stack, up on a cluster of its own, for all tests here."""

import socket
from collections.abc import Iterator

import pytest
from house_lab import House

from sandbox.build import Tools


@pytest.fixture(scope="package")
def house(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The stack on a cluster of its own, as each test leaves it."""
    house = House(tmp_path_factory.mktemp("house"), tools)
    yield house
    house.cluster.remove()


@pytest.fixture(scope="session")
def own_address() -> str:
    """The machine's address on its own network, without anything being sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture
def with_backups(house: House) -> Iterator[None]:
    """Let the stack have all that it can have."""
    volume = {"path": "/mnt/backup/homelab", "size": "200Gi"}
    house.edit(lambda keys: keys["homelab:webui"].update({"backup": {"volume": volume}}))
    house.up()
    yield
    house.reset()
    house.up()
