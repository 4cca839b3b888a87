"""Distributes tests over the workers, and has the fixtures of several folders."""

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from config.versions import KUBE_PROMETHEUS_STACK, METALLB
from sandbox import images, requirements
from sandbox import programs as real_programs
from sandbox.build import Tools, build
from sandbox.processes import SandboxError

# Most of what imports create lives as long as the process: to traverse it takes a second.
gc.disable()
# The program looks at the pods of its cluster, which must not be one of the developer's.
os.environ["KUBECONFIG"] = os.devnull

# Examples take longer on a busy machine, which is no failure.
settings.register_profile("homelab", deadline=None)
settings.load_profile("homelab")

CHARTS = {"kube-prometheus-stack": KUBE_PROMETHEUS_STACK, "metallb": METALLB}
PUBLISHED = "tests/published"
REAL = "tests/real"
TOGETHER = ("tests/stack", REAL, "tests/cluster", PUBLISHED)
"""Folders whose tests share a cluster, and so a worker; else each file is a group."""
BUILT = {"tools", "programs", "open_webui", "promtool", "alertmanager"}
"""Fixtures that build programs; a test that uses one, or is in `TOGETHER`, is a built test."""
FAULTS = "slow, and a rare fault; make test-faults runs it"
"""Reason with which `make test-all` skips a test."""
LONGEST = (*TOGETHER, "tests/workloads/test_real_repository.py", "tests/workloads")
"""Paths of the tests that run first, because they take longest, the longest first."""


def group(nodeid: str) -> str:
    """Return the folder of a test if it is in `TOGETHER`, else its file."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return folder if folder in TOGETHER else file


class Together(LoadScopeScheduling):  # type: ignore[misc]
    """Runs each group in one worker; `loadgroup` of pytest-xdist loses groups on pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Use `Together` as the scheduler."""
    return Together(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--built`, by which `make test`, `test-all` and `test-faults` select their tests."""
    parser.addoption("--built", choices=("yes", "no", "only", "faults"), default="yes")


def is_built(item: pytest.Item) -> bool:
    """Return whether a test needs a built program or a cluster."""
    return group(item.nodeid) in TOGETHER or bool(BUILT & set(getattr(item, "fixturenames", ())))


def is_fault(item: pytest.Item) -> bool:
    """Return whether a test is for `make test-faults`."""
    return item.get_closest_marker("faults") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests that `--built` excludes, before their fixtures build anything."""
    built = item.config.getoption("built")
    if built == "no" and is_built(item):
        pytest.skip("needs built programs or a cluster; make test-all runs it")
    if built == "only" and is_fault(item):
        pytest.skip(FAULTS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests of `--built`, and run the longest first."""
    if (built := config.getoption("built")) in ("only", "faults"):
        wanted = is_built if built == "only" else is_fault
        items[:] = [item for item in items if wanted(item)]

    def order(item: pytest.Item) -> int:
        matches = [n for n, path in enumerate(LONGEST) if item.nodeid.startswith(path)]
        return min(matches, default=len(LONGEST))

    items.sort(key=order)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, among what the tests create."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many tests of the published charts and of the real node ran."""

    def count(folder: str, *outcomes: str) -> int:
        reports = [report for name in outcomes for report in terminalreporter.stats.get(name, [])]
        reports = [report for report in reports if report.nodeid.startswith(folder)]
        return sum(FAULTS not in str(report.longrepr) for report in reports)

    versions = ", ".join(f"{name} {version}" for name, version in CHARTS.items())
    for title, folder, hint in (
        (f"published charts ({versions})", PUBLISHED, "HOMELAB_CHARTS"),
        ("real node", REAL, "docs/develop.md"),
    ):
        passed, not_passed = count(folder, "passed"), count(folder, "skipped", "failed", "error")
        if terminalreporter.config.getoption("built") != "no" and (passed or not_passed):
            rest = f"{not_passed} not, see {hint}" if not_passed else "all"
            terminalreporter.write_line(f"{title}: {passed} passed, {rest}")


@pytest.fixture(scope="session")
def published() -> dict[str, str]:
    """The files of the published charts, as `homelab:charts` has them; skips without them."""
    if not (folder := os.environ.get("HOMELAB_CHARTS")):
        pytest.skip("HOMELAB_CHARTS: not set; it names a folder with the published charts")
    files = {name: Path(folder, f"{name}-{CHARTS[name]}.tgz").absolute() for name in CHARTS}
    for file in files.values():
        if not file.exists():
            pytest.skip(f"HOMELAB_CHARTS: {file.name} is not in {folder}")
    return {name: str(file) for name, file in files.items()}


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The sandbox's tools, built on first use, which takes 15 minutes."""
    return replace(build(), chart=None)


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Ollama, Prometheus and restic, built on first use, which takes 15 minutes."""
    return real_programs.install_tools(("ollama", "prometheus", "restic"))


@pytest.fixture(scope="session")
def packages() -> None:
    """The packages of a real node and its images; skips without them, or without root."""
    if os.geteuid() != 0:
        pytest.skip("the real node and its images are made by root; sudo .ci/run makes them")
    missing = requirements.missing()
    # In CI as root there is nothing that could be missing.
    if missing and os.environ.get("HOMELAB_REAL_NODE") == "1":
        pytest.fail(f"packages are missing: {' '.join(missing)}")
    if missing:
        pytest.skip(f"packages are missing: {' '.join(missing)}")


@pytest.fixture(scope="session")
def open_webui(request: pytest.FixtureRequest) -> Path:
    """The Python of Open WebUI's image; without root, of the one that root has made before."""
    if os.geteuid() == 0:
        request.getfixturevalue("packages")
        return images.python()
    try:
        return images.python()
    except (OSError, SandboxError) as error:
        pytest.skip(f"Open WebUI's image is made by root: {error}")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' promtool."""
    return real_programs.install_tools(["promtool"])["promtool"]


@pytest.fixture(scope="session")
def alertmanager() -> Path:
    """Alertmanager, built without its web UI."""
    return real_programs.alertmanager()
