"""The first process of a node, until it becomes `pause`: its mounts, name and kernel settings.

Run as a script in new namespaces: node_init.py SETTINGS, the arguments of `prepare` as JSON.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# The kubelet insists on these, and they are the whole machine's: it may write them, into files.
KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
STATE = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers")
"""Folders in /var that stay when the node is started again."""


def prepare(
    *,
    name: str,
    address: str,
    disk: str,
    data: dict[str, str],
    cgroups: Sequence[tuple[str, str, str]],
    etc: dict[str, str],
) -> None:
    """Give the node what is its own, out of sight of the machine.

    `disk` is the folder for its state; `data` are other disks, by where they are mounted;
    `cgroups` are path, kind and options of each hierarchy; `etc` are files' contents by name.
    """
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    subprocess.run(["umount", "-R", "/sys"], check=True)
    mount("-t", "sysfs", "sysfs", "/sys")
    if all(path != "/sys/fs/cgroup" for path, _, _ in cgroups):
        mount("-t", "tmpfs", "-o", "mode=755", "cgroups", "/sys/fs/cgroup")
    for path, kind, options in cgroups:
        Path(path).mkdir(exist_ok=True)
        mount("-t", kind, *(["-o", options] if options else []), "cgroup", path)
    socket.sethostname(name)

    for folder in ("/run", "/mnt"):
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
    for setting, value in KERNEL.items():
        file = Path("/run/kernel") / setting
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        mount("--bind", file, Path("/proc/sys") / setting)
    for folder in ("/var", "/etc"):
        upper, work = (Path(f"/run/overlay{folder}-{part}") for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
        mount("-t", "overlay", "-o", layers, "overlay", folder)
    # containerd makes overlays of its own, which cannot lie on one.
    binds = {f"/var/{path}": f"{disk}/{path}" for path in STATE} | data
    for target, source in binds.items():
        Path(source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", source, target)
    own = {
        "hosts": f"127.0.0.1 localhost\n{address} {name}\n",
        "resolv.conf": "nameserver 192.168.1.1\n",
    }
    for path, content in (own | etc).items():
        file = Path("/etc") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        # A link may lead to where this node has nothing.
        file.unlink(missing_ok=True)
        file.write_text(content)
    mount("--make-rshared", "/")


def mount(*arguments: str | Path) -> None:
    """Mount a file system; raises CalledProcessError if it fails."""
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    ready, pause = settings.pop("ready"), settings.pop("pause")
    # Opened now: /run is another one afterwards.
    with Path(ready).open("w"):
        prepare(**settings)
        Path(ready).write_text("ready")
    os.execv(pause, [pause])
