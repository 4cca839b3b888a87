"""The first process of a node, until it becomes `pause`: its mounts, name and kernel settings.

Run as a script in new namespaces: node_init.py SETTINGS, the arguments of `prepare` as JSON.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# The kubelet requires these. They are the whole machine's, so it gets files in their place.
KERNEL = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
STATE = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers")
"""Folders in /var that the next start has again."""


def prepare(
    *,
    name: str,
    state: str,
    disks: Mapping[str, str],
    cgroups: Sequence[tuple[str, str, str]],
    etc: Mapping[str, str],
) -> None:
    """Mount the node's own file systems, out of sight of the machine.

    `state` is the folder for STATE; `disks` are folders by mount point; `cgroups` are path, kind
    and options of each hierarchy; `etc` are contents of files by name.
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
        write(Path("/run/kernel") / setting, f"{value}\n")
        mount("--bind", f"/run/kernel/{setting}", f"/proc/sys/{setting}")
    for folder in ("/var", "/etc"):
        upper, work = (Path(f"/run/overlay{folder}-{part}") for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
        mount("-t", "overlay", "-o", layers, "overlay", folder)
    # Not on the overlay, because containerd makes overlays of its own in it.
    for target, source in {
        **{f"/var/{path}": f"{state}/{path}" for path in STATE},
        **disks,
    }.items():
        Path(source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", source, target)
    for path, content in etc.items():
        write(Path("/etc") / path, content)
    mount("--make-rshared", "/")


def write(file: Path, content: str) -> None:
    """Write a file, and its folder; a link is replaced, because its target may be missing here."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(content)


def mount(*arguments: str) -> None:
    """Mount a file system; raises CalledProcessError."""
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    ready, pause = settings.pop("ready"), settings.pop("pause")
    prepare(**settings)
    Path(ready).write_text("ready")
    os.execv(pause, [pause])
