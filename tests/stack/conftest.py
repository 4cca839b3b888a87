"""The stack, up on a simulated cluster, for all tests of this folder."""

from collections.abc import Iterator

import pytest
from live_stack import LiveStack, with_backups

from sandbox.build import Tools


@pytest.fixture(scope="package")
def live_stack(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The stack with backups, shared: a test has to undo its changes."""
    live_stack = LiveStack(tmp_path_factory.mktemp("live_stack"), tools, with_backups)
    yield live_stack
    live_stack.cluster.remove()
