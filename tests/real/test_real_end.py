"""A cluster with a real node ends, however the one who started it does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually

from sandbox import node

pytestmark = pytest.mark.faults

LAUNCHER = """
import signal, sys
from pathlib import Path
from sandbox.build import build
from sandbox.programs import install_all
from sandbox import images
from sandbox.real_cluster import Cluster
programs = install_all()
cluster = Cluster(Path(sys.argv[1]), programs, build().addons())
try:
    cluster.start([images.image(name, programs) for name in images.SYSTEM])
    print("READY", flush=True)
    signal.pause()
finally:
    cluster.stop()
"""
READY = "READY"


def launch(folder: Path, until: str) -> subprocess.Popen[str]:
    """Start a cluster in `folder`, and return when its launcher has printed `until`."""
    command = [sys.executable, "-c", LAUNCHER, str(folder)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout
    for line in launcher.stdout:
        if until in line:
            return launcher
        if READY in line:
            launcher.kill()
    raise AssertionError(f"{until}: never printed")


def members(folder: Path) -> set[str]:
    """The pids of all processes in those groups."""
    files = [group / "cgroup.procs" for group in node.groups(folder)]
    return {pid for file in files for pid in file.read_text().split()}


@pytest.mark.usefixtures("real_programs")
@pytest.mark.parametrize("moment", ["control plane", "images", "DNS and load balancer", READY])
def test_nothing_runs_on_when_the_launcher_is_killed(tmp_path: Path, moment: str) -> None:
    launcher = launch(tmp_path, moment)
    try:
        assert members(tmp_path)
        mounts = Path("/proc/mounts").read_text()
        assert str(tmp_path) not in mounts
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert eventually(lambda: not members(tmp_path))
        assert Path("/proc/mounts").read_text() == mounts
    finally:
        launcher.kill()
        node.end(tmp_path)
    assert not node.groups(tmp_path)


@pytest.mark.usefixtures("real_programs")
def test_two_clusters_run_side_by_side_and_one_starts_again(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    launchers = [launch(folder, READY) for folder in folders]
    try:
        others = members(folders[1])
        # A second one in the same folder waits, and ends nothing when it is told to give up.
        waiting = launch(folders[1], f"works in {folders[1]}")
        waiting.send_signal(signal.SIGINT)
        waiting.wait()
        assert others <= members(folders[1])
        launchers[0].kill()
        # It clears what the killed one left, and leaves the other alone.
        launchers.append(launch(folders[0], READY))
        assert others & members(folders[1])
    finally:
        for launcher in launchers:
            launcher.kill()
        for folder in folders:
            node.end(folder)
    assert not any(map(node.groups, folders))
