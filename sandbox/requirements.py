"""What a real node needs of the machine: root, packages of Debian or Ubuntu, a kernel."""

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
    "curl": "curl",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "g++": "g++",
    "iproute2": "ip",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "nftables": "nft",
    "runc": "runc",
    "util-linux": "nsenter",
}
SERVICES = {"containerd": "containerd.service", "nftables": "nftables.service"}
"""What a package would run on the machine itself, by package."""
KERNEL = {
    "namespaces": "true",
    "overlay and tmpfs": "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b /mnt/c"
    " && mount -t overlay -o lowerdir=/mnt/a,upperdir=/mnt/b,workdir=/mnt/c overlay /mnt/a",
    "bridge": "ip link add br0 type bridge",
    "veth": "ip link add veth0 type veth peer name veth1",
    "nf_tables with NAT": "nft add table ip t && nft add chain ip t c"
    " '{ type nat hook postrouting priority 100; }' && nft add rule ip t c masquerade",
    "nft_compat with NFQUEUE": "iptables -t mangle -A INPUT -j NFQUEUE --queue-num 1",
    "xt_owner": "iptables -t mangle -A POSTROUTING -m owner --uid-owner 0 -j ACCEPT",
    "xt_conntrack": "iptables -t mangle -A INPUT -m conntrack --ctstate ESTABLISHED -j RETURN",
}
"""Features by name, each with what can be done, in new namespaces, only where it is there."""
ALONE = ("unshare", "--mount", "--net", "--pid", "--cgroup", "--fork", "sh", "-c")


def missing() -> list[str]:
    """Give the packages that are not installed, sorted; raises SandboxError without root."""
    if os.geteuid() != 0:
        raise SandboxError("a real node is made by root: sudo make demo; without root: make up")
    return sorted(name for name, file in PACKAGES.items() if not _is_there(file))


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
    apt = 'apt-get update && apt-get install --yes --no-install-recommends "$@"'
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("packages", ["sh", "-c", apt, "sh", *packages], log, folder, quiet)
    # The node has a containerd of its own; the machine is to have none because of it.
    started = [service for name, service in SERVICES.items() if name in packages]
    if started and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *started], check=True)
    if left := missing():
        raise SandboxError(f"packages: {' '.join(left)} are missing still; {log} says why")


def check_kernel() -> None:
    """Raise SandboxError, naming them all, if the kernel lacks what a node is made of."""
    lacking = [name for name, trial in KERNEL.items() if _fails(trial)]
    if lacking:
        raise SandboxError(f"kernel {platform.release()}: lacks {', '.join(lacking)}")


def _fails(trial: str) -> bool:
    return subprocess.run([*ALONE, trial], capture_output=True, check=False).returncode != 0


def _is_there(file: str) -> bool:
    return Path(file).exists() if file.startswith("/") else shutil.which(file) is not None
