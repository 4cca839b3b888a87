"""The stack, up with the published charts, and MetalLB as addon and as release."""

from collections.abc import Iterator
from typing import Any

import pytest
from live_stack import LiveStack

from sandbox.build import Tools


@pytest.fixture(scope="package", params=["addon", "helm"])
def live_stack(
    request: pytest.FixtureRequest,
    published: dict[str, str],
    tools: Tools,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveStack]:
    """The stack with the published charts, on a simulated cluster."""

    def change(keys: dict[str, Any]) -> None:
        keys["homelab:network"]["metallb"] = request.param
        keys["homelab:charts"] = published

    live_stack = LiveStack(tmp_path_factory.mktemp("published"), tools, change)
    yield live_stack
    live_stack.cluster.remove()
