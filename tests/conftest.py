"""How workers share the tests: what takes a minute to come up does so once; and what all need."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from kubernetes import config as kubeconfig
from kubernetes.dynamic import DynamicClient
from xdist.scheduler import LoadScopeScheduling

from config.versions import KUBE_PROMETHEUS_STACK, METALLB
from sandbox import programs as real_programs
from sandbox.build import Tools, build
from sandbox.cluster import Cluster
from sandbox.processes import SandboxError

# A busy machine is not a wrong answer.
settings.register_profile("homelab", deadline=None)
settings.load_profile("homelab")

Connect = Callable[[Cluster], DynamicClient]

CHARTS = {"kube-prometheus-stack": KUBE_PROMETHEUS_STACK, "metallb": METALLB}
PUBLISHED = "tests/published"
REAL = "tests/real"
TOGETHER = (REAL, "tests/cluster", "tests/stack", PUBLISHED)
"""Folders whose tests share a cluster; every other file is for itself."""
BUILT = {"tools", "programs", "open_webui", "promtool", "alertmanager"}
"""Fixtures that build programs; a test with one of them, or in those folders, is a built test."""
FAULTS = "a fault on the real node; make test-faults runs it"
"""Why `make test-all` skips a test; pytest prints it once, with their number."""
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make test`, `make test-all` and `make test-faults` share the tests between them."""
    parser.addoption("--built", choices=("yes", "no", "only", "faults"), default="yes")


def is_built(item: pytest.Item) -> bool:
    """Say whether a test needs a built program or a cluster."""
    return group(item.nodeid) in TOGETHER or bool(BUILT & set(getattr(item, "fixturenames", ())))


def is_fault(item: pytest.Item) -> bool:
    """Say whether a test of the real node is for `make test-faults`."""
    return item.get_closest_marker("faults") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is not run this time before its fixtures build anything."""
    built = item.config.getoption("built")
    if built == "no" and is_built(item):
        pytest.skip("needs built programs or a cluster; make test-all runs it")
    if built == "only" and is_fault(item):
        pytest.skip(FAULTS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let what takes longest begin, a group in each worker."""
    if (built := config.getoption("built")) in ("only", "faults"):
        wanted = is_built if built == "only" else is_fault
        items[:] = [item for item in items if wanted(item)]

    def place(item: pytest.Item) -> int:
        found = [n for n, path in enumerate(LONGEST) if item.nodeid.startswith(path)]
        return min(found, default=len(LONGEST))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say whether the published charts and the real node were there to be tested."""

    def count(folder: str, *outcomes: str) -> int:
        reports = [report for name in outcomes for report in terminalreporter.stats.get(name, [])]
        here = [report for report in reports if report.nodeid.startswith(folder)]
        return sum(FAULTS not in str(report.longrepr) for report in here)

    versions = ", ".join(f"{name} {version}" for name, version in CHARTS.items())
    for what, folder, hint in (
        (f"published charts ({versions})", PUBLISHED, "HOMELAB_CHARTS"),
        ("real node", REAL, "docs/develop.md"),
    ):
        passed, others = count(folder, "passed"), count(folder, "skipped", "failed", "error")
        if terminalreporter.config.getoption("built") != "no" and (passed or others):
            rest = f"{others} not, see {hint}" if others else "all"
            terminalreporter.write_line(f"{what}: {passed} passed, {rest}")


@pytest.fixture(scope="session")
def published() -> dict[str, str]:
    """The published charts, as `homelab:charts` names them; a test without them is skipped."""
    if not (folder := os.environ.get("HOMELAB_CHARTS")):
        pytest.skip("HOMELAB_CHARTS: not set; it names a folder with the published charts")
    files = {name: Path(folder, f"{name}-{CHARTS[name]}.tgz").absolute() for name in CHARTS}
    for file in files.values():
        if not file.exists():
            pytest.skip(f"HOMELAB_CHARTS: {file.name} is not in {folder}")
    return {name: str(file) for name, file in files.items()}


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The project's own tools and chart; they are built once, which takes a quarter of an hour."""
    return replace(build(), chart=None)


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """The programs of the pods; they are built once, which takes a quarter of an hour."""
    return real_programs.install_tools(("ollama", "prometheus", "restic"))


@pytest.fixture(scope="session")
def open_webui() -> Path:
    """The Python of an environment with Open WebUI; a test is skipped where no Python is for it."""
    try:
        real_programs.find_python()
    except SandboxError as error:
        pytest.skip(str(error))
    return real_programs.open_webui()


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own program that checks and tests rules."""
    return real_programs.install_tools(["promtool"])["promtool"]


@pytest.fixture(scope="session")
def alertmanager() -> Path:
    """Alertmanager, without its page."""
    return real_programs.alertmanager()


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
