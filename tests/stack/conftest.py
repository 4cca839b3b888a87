"""The stack, up on a simulated cluster, for all tests of this folder."""

import socket
from collections.abc import Iterator

import pytest
from live_stack import LiveStack

from sandbox.build import Tools


@pytest.fixture(scope="package")
def live_stack(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The stack, shared: a test has to undo its changes."""
    live_stack = LiveStack(tmp_path_factory.mktemp("live_stack"), tools)
    yield live_stack
    live_stack.cluster.remove()


@pytest.fixture(scope="session")
def own_address() -> str:
    """The machine's address on its network; connecting a UDP socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture
def with_backups(live_stack: LiveStack) -> Iterator[None]:
    """Adds the backups to the stack, for one test."""
    volume = {"path": "/mnt/backup/homelab", "size": "200Gi"}
    live_stack.edit(lambda keys: keys["homelab:webui"].update({"backup": {"volume": volume}}))
    live_stack.up()
    yield
    live_stack.reset()
    live_stack.up()
