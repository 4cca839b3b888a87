"""The stack, up with the published charts, and MetalLB as a release."""

from collections.abc import Iterator
from typing import Any

import pytest
from live_stack import LiveStack, with_backups

from sandbox.build import Tools


@pytest.fixture(scope="package")
def live_stack(
    published: dict[str, str], tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveStack]:
    """The stack with the published charts and backups, on a simulated cluster."""

    def change(keys: dict[str, Any]) -> None:
        keys["homelab:network"]["metallb"] = "helm"
        keys["homelab:charts"] = dict(published)
        with_backups(keys)

    live_stack = LiveStack(tmp_path_factory.mktemp("published"), tools, change)
    yield live_stack
    live_stack.cluster.remove()
