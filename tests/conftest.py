"""How workers share the tests: what takes a minute to come up does so once; and what all need."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import config as kubeconfig
from kubernetes.dynamic import DynamicClient
from xdist.scheduler import LoadScopeScheduling

from sandbox.build import Tools, build
from sandbox.cluster import Cluster

Connect = Callable[[Cluster], DynamicClient]

TOGETHER = ("tests/dataplane", "tests/cluster", "tests/stack")
"""Folders whose tests share a cluster or a house; every other file is for itself."""
LONGEST = (*TOGETHER, "tests/workloads/test_real_models.py", "tests/workloads")
"""What begins, or one worker would end with it while the others have nothing to do."""


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
    """Let what takes longest begin, a group in each worker."""

    def place(item: pytest.Item) -> int:
        found = [n for n, path in enumerate(LONGEST) if item.nodeid.startswith(path)]
        return min(found, default=len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The project's own tools and chart; they are built once, which takes a quarter of an hour."""
    return replace(build(), chart=None)


@pytest.fixture(scope="session")
def connect() -> Connect:
    """Makes the official dynamic client of a cluster, from its kubeconfig alone."""

    def make(cluster: Cluster) -> DynamicClient:
        api = kubeconfig.new_client_from_config(  # type: ignore[no-untyped-call]
            str(cluster.kubeconfig), cluster.context
        )
        cache = str(cluster.folder / "discovery.json")
        return DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]

    return make
