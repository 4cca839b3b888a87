"""How two workers share the tests: what takes a minute to come up does so once."""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FIRST = ("tests/sandbox", "tests/dataplane")
"""Folders whose tests share a cluster or a house; they take longest, so they begin."""
ALONE = ("test_gateway", "test_real_models", "test_real_backup", "test_real_repository")
"""How the files begin that are there too, and need neither."""


def group(nodeid: str) -> str:
    """Give the folder of a test if its tests belong together, and else its file."""
    file = nodeid.partition("::")[0]
    folder, _, name = file.rpartition("/")
    return folder if folder in FIRST and not name.startswith(ALONE) else file


class Together(LoadScopeScheduling):
    """Keeps groups in one worker; the groups that pytest-xdist has itself get lost on pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Share the tests out this way."""
    return Together(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest groups begin, one in each worker."""
    items.sort(key=lambda item: (*FIRST, group(item.nodeid)).index(group(item.nodeid)))
