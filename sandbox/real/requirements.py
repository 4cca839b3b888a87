"""What a real node needs of the machine: root, and packages of Debian or Ubuntu."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from sandbox.processes import SandboxError
from sandbox.toolchain import run

# Each package by a file of it that is used here.
PACKAGES = {
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "containerd": "ctr",
    "iproute2": "ip",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "nftables": "nft",
    "runc": "runc",
    "util-linux": "nsenter",
}
SERVICES = {"containerd": "containerd.service", "nftables": "nftables.service"}
"""What a package would run on the machine itself, by package."""


def missing() -> list[str]:
    """Give the packages that are not installed, sorted; raises SandboxError without root."""
    if os.geteuid() != 0:
        raise SandboxError("a real node is made by root: sudo make demo; without root: make up")
    return sorted(name for name, file in PACKAGES.items() if not shutil.which(file))


def install(folder: Path) -> None:
    """Install what is missing by apt, after asking; the log is in `folder`.

    Raises SandboxError where there is no apt, or the answer is no.
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
    apt = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    run("packages", apt, log, folder, {"DEBIAN_FRONTEND": "noninteractive"})
    # The node has a containerd of its own; the machine is to have none because of it.
    started = [service for name, service in SERVICES.items() if name in packages]
    if started and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *started], check=True)
    if left := missing():
        raise SandboxError(f"packages: {' '.join(left)} are missing still; {log} says why")


def check_kernel() -> None:
    """Raise SandboxError, naming them all, if the kernel lacks file systems that pods need."""
    known = Path("/proc/filesystems").read_text().split()
    wanted = ("overlay", "tmpfs", "sysfs", "proc")
    if lacking := [name for name in wanted if name not in known]:
        raise SandboxError(f"kernel {platform.release()}: lacks {', '.join(lacking)}")
