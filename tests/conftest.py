"""How two workers share the tests: what takes a minute to come up does so once."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/cluster", "tests/dataplane")
"""Folders whose tests share a cluster or a house; every other file is for itself."""
LONGEST = (*TOGETHER, "tests/workloads")
"""Folders that begin, or one worker would end with them while the other has nothing to do."""


def group(nodeid: str) -> str:
    """Give the folder of a test if its tests belong together, and else its file."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps groups in one worker; the groups that pytest-xdist has itself get lost on pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Share the tests out this way."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes longest begin, one group in each worker."""

    def place(item: pytest.Item) -> int:
        folder = item.nodeid.partition("::")[0].rpartition("/")[0]
        return (*LONGEST, folder).index(folder)

    items.sort(key=place)
