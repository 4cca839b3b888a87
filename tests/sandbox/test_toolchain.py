"""Builds: what an interrupt leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from harness import ROOT
from waiting import eventually

# A shell starts what is in the background with interrupts ignored, as a compiler may do.
BUILD = """
import signal, sys
from pathlib import Path
from sandbox.toolchain import run
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
run("tiny", ["sh", "-c", "sleep 600 & echo $! >pid; wait"], folder / "log", folder)
"""


def test_an_interrupted_build_leaves_no_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as build:
        assert eventually(lambda: pid.exists() and pid.read_text().strip())
        os.kill(build.pid, signal.SIGINT)

    def is_over() -> bool:
        process = int(pid.read_text())
        return not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie"

    assert eventually(is_over)
