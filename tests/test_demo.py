"""What a person is shown where the demo cannot begin; all else is in tests/dataplane."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from pulumi.automation import CommandError

from sandbox.demo import Demo


def test_what_the_engine_says_is_shown_where_it_fails(tmp_path: Path) -> None:
    told: list[str] = []
    demo = Demo(tmp_path, Mock(), Mock(), told.append)

    def up(say: Callable[[str], None]) -> None:
        say("  why\n")
        say("\n")
        raise CommandError(Mock(stdout="", stderr="", code=1))

    demo.cluster, demo.engine = Mock(), Mock(up=up)
    with pytest.raises(CommandError):
        demo.start([], [])
    assert told[-1] == "  why"
