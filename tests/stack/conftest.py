"""The stack, up on a cluster of its own, for all tests here."""

import socket
from collections.abc import Iterator

import pytest
from live_stack import LiveStack

from sandbox.build import Tools


@pytest.fixture(scope="package")
def live_stack(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The stack on a cluster of its own, as each test leaves it."""
    live_stack = LiveStack(tmp_path_factory.mktemp("live_stack"), tools)
    yield live_stack
    live_stack.cluster.remove()


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
def with_backups(live_stack: LiveStack) -> Iterator[None]:
    """Let the stack have all that it can have."""
    volume = {"path": "/mnt/backup/homelab", "size": "200Gi"}
    live_stack.edit(lambda keys: keys["homelab:webui"].update({"backup": {"volume": volume}}))
    live_stack.up()
    yield
    live_stack.reset()
    live_stack.up()
