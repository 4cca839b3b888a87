"""Requirements of a real node: root, packages of Debian or Ubuntu, and kernel features."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from sandbox.processes import SandboxError
from sandbox.toolchain import run

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
ALONE = ("unshare", "--mount", "--net", "--pid", "--cgroup", "--fork", "sh", "-c")


def missing() -> list[str]:
    """Return the packages that are not installed, sorted; raises SandboxError without root."""
    if os.geteuid() != 0:
        raise SandboxError("a real node is made by root: sudo make demo; without root: make up")
    # shutil.which takes an absolute path as it is, but only of a program.
    return sorted(
        name
        for name, file in TABLE["packages"].items()
        if not (Path(file).exists() if file.startswith("/") else shutil.which(file))
    )


def install(folder: Path) -> None:
    """Install missing packages by apt, after a question; the log is in `folder`.

    Raises SandboxError without apt, or if the answer is no.
    """
    packages = missing()
    if not packages:
        return
    print(f"  packages: missing {' '.join(packages)}", flush=True)
    if not shutil.which("apt-get"):
        raise SandboxError(f"packages: this is no Debian or Ubuntu; install {' '.join(packages)}")
    if os.environ.get("YES") != "1":
        answer = input("  install them with apt? [y/N] ") if sys.stdin.isatty() else ""
        if answer.lower() != "y":
            raise SandboxError("packages: not installed; YES=1 installs them without asking")
    log = folder / "logs" / "build-packages.log"
    apt = 'apt-get update && apt-get install --yes --no-install-recommends "$@"'
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("packages", ["sh", "-c", apt, "sh", *packages], log, folder, quiet)
    # Disabled, because the node starts a containerd of its own.
    started = [service for name, service in TABLE["services"].items() if name in packages]
    if started and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *started], check=True)
    if left := missing():
        raise SandboxError(f"packages: {' '.join(left)} are still missing; the log is {log}")


def check_kernel() -> None:
    """Raise SandboxError with all features that the kernel lacks."""
    results = {
        name: subprocess.run([*ALONE, trial], capture_output=True, check=False)
        for name, trial in TABLE["kernel"].items()
    }
    if lacking := [name for name, result in results.items() if result.returncode]:
        raise SandboxError(f"kernel {platform.release()}: lacks {', '.join(lacking)}")
