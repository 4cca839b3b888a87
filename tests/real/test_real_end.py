"""A cluster with a real node ends, however the one who started it does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import eventually

from sandbox.cgroup import Group

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


@pytest.mark.usefixtures("real_programs")
@pytest.mark.parametrize("moment", ["control plane", "images", "DNS and load balancer", READY])
def test_nothing_runs_on_when_the_launcher_is_killed(tmp_path: Path, moment: str) -> None:
    launcher, group = launch(tmp_path, moment), Group(tmp_path)
    try:
        assert group.members()
        mounts = Path("/proc/mounts").read_text()
        assert str(tmp_path) not in mounts
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert eventually(lambda: not group.members())
        assert Path("/proc/mounts").read_text() == mounts
    finally:
        launcher.kill()
        group.end()
    assert not group.exists()


@pytest.mark.usefixtures("real_programs")
def test_two_clusters_run_side_by_side_and_one_starts_again(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    launchers = [launch(folder, READY) for folder in folders]
    try:
        others = Group(folders[1]).members()
        # A second one in the same folder waits, and ends nothing when it is told to give up.
        waiting = launch(folders[1], f"works in {folders[1]}")
        waiting.send_signal(signal.SIGINT)
        waiting.wait()
        assert others <= Group(folders[1]).members()
        launchers[0].kill()
        # It clears what the killed one left, and leaves the other alone.
        launchers.append(launch(folders[0], READY))
        assert others & Group(folders[1]).members()
    finally:
        for launcher in launchers:
            launcher.kill()
        for folder in folders:
            Group(folder).end()
    assert not any(Group(folder).exists() for folder in folders)
