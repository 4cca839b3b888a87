"""One cluster with a real node, and the stack on it, for all tests here."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.build import FOLDER, Tools
from sandbox.engine import Engine
from sandbox.real import images, requirements
from sandbox.real.__main__ import DISK, every_image
from sandbox.real.cluster import Cluster
from sandbox.real.programs import addons, collect


def obstacle() -> str:
    """Say why no node can be made here; empty where one can."""
    if os.geteuid() != 0:
        return "not root"
    if missing := requirements.missing():
        return f"packages are missing: {' '.join(missing)}"
    made = subprocess.run(["unshare", "--mount", "--net", "--pid", "--cgroup", "--fork", "true"])
    return "namespaces cannot be made" if made.returncode else ""


@pytest.fixture(scope="session")
def programs(tools: Tools) -> dict[str, Path]:
    """What runs on the node, built."""
    if why := obstacle():
        pytest.skip(why)
    del tools
    images.prepare(FOLDER)
    return collect()


@pytest.fixture(scope="session")
def restart(programs: dict[str, Path]) -> Callable[[Cluster], None]:
    """Starts a cluster, also again, with all its images."""

    def start(cluster: Cluster) -> None:
        cluster.start(lambda file: every_image(programs, file), DISK)

    return start


@pytest.fixture(scope="session")
def cluster(
    programs: dict[str, Path],
    restart: Callable[[Cluster], None],
    tools: Tools,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """The cluster, with the stack on it, whose page answers."""
    cluster = Cluster(tmp_path_factory.mktemp("real"), programs, addons())
    try:
        restart(cluster)
        Engine(cluster, tools).up(print)
        cluster.wait_for_page()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def admin(cluster: Cluster, tools: Tools) -> tuple[str, str]:
    """E-mail and password of the page's admin."""
    outputs = Engine(cluster, tools).outputs()
    return outputs["open_webui_email"][0], outputs["open_webui_password"][0]
