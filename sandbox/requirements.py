"""Requirements of a real node: root, packages of Debian or Ubuntu, and kernel features."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from sandbox.processes import SandboxError
from sandbox.toolchain import run

# Each package with a file of it that is used here.
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
    "skopeo": "skopeo",
    "socat": "socat",
    "util-linux": "nsenter",
}
SERVICES = {"containerd": "containerd.service", "nftables": "nftables.service"}
"""Services that a package starts on the machine, by package."""
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
"""Features by name, each with commands that fail in new namespaces without it."""
ALONE = ("unshare", "--mount", "--net", "--pid", "--cgroup", "--fork", "sh", "-c")


def missing() -> list[str]:
    """Return the packages that are not installed, sorted; raises SandboxError without root."""
    if os.geteuid() != 0:
        raise SandboxError("a real node is made by root: sudo make demo; without root: make up")
    # shutil.which takes an absolute path as it is, but only of a program.
    return sorted(
        name
        for name, file in PACKAGES.items()
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
    started = [service for name, service in SERVICES.items() if name in packages]
    if started and Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *started], check=True)
    if left := missing():
        raise SandboxError(f"packages: {' '.join(left)} are still missing; the log is {log}")


def check_kernel() -> None:
    """Raise SandboxError with all features that the kernel lacks."""
    results = {
        name: subprocess.run([*ALONE, trial], capture_output=True, check=False)
        for name, trial in KERNEL.items()
    }
    if lacking := [name for name, result in results.items() if result.returncode]:
        raise SandboxError(f"kernel {platform.release()}: lacks {', '.join(lacking)}")
