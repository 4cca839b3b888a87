"""How two workers share the tests: what takes a minute to come up does so once."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = ("tests/cluster", "tests/dataplane")
"""Folders whose tests share a cluster or a house; they take longest, so they begin."""


def group(nodeid: str) -> str:
    """Give the folder of a test if its tests belong together, and else its file."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in FIRST else file


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps groups in one worker; the groups that pytest-xdist has itself get lost on pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Share the tests out this way."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest groups begin, one in each worker."""
    items.sort(key=lambda item: (*FIRST, group(item.nodeid)).index(group(item.nodeid)))
