"""The control group of all processes of a node, in every hierarchy (v1 and v2)."""

import contextlib
import os
import signal
import time
from hashlib import sha256
from pathlib import Path

import psutil

from sandbox.processes import SandboxError

NAME = "homelab-node"


def hierarchies() -> list[tuple[str, str, str]]:
    """Return all mounted hierarchies: path, file system (`cgroup` or `cgroup2`), mount options.

    Options are a hierarchy's controllers, or its name; empty for `cgroup2`.
    """
    controllers = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()}
    result = []
    for mount in psutil.disk_partitions(all=True):
        if mount.fstype in ("cgroup", "cgroup2"):
            words = mount.opts.split(",")
            own = [word for word in words if word in controllers or word.startswith("name=")]
            result.append((mount.mountpoint, mount.fstype, ",".join(own)))
    return result


class Group:
    """The control group `homelab-node/…` of the node whose state is in `folder`."""

    def __init__(self, folder: Path) -> None:
        digest = sha256(str(folder).encode()).hexdigest()[:8]
        self._paths = [Path(path, NAME, digest) for path, _, _ in hierarchies()]

    def create(self) -> None:
        """Create the group, and `system` in it for all processes but those of pods."""
        for path in self._paths:
            parent, root = path.parent, path.parent.parent
            if (root / "cpuset.cpus").exists():
                parent.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (parent / file).write_text((root / file).read_text())
                # Without it, groups in v1's cpuset have no processors.
                (parent / "cgroup.clone_children").write_text("1")
            (path / "system").mkdir(parents=True, exist_ok=True)
            # At v2's root, systemd enables what its own units use alone.
            _delegate(root)
            _delegate(parent)

    def settle(self) -> None:
        """Move the processes into `system`: in v2, a group with limits below has none itself."""
        for path in self._paths:
            for pid in (path / "cgroup.procs").read_text().split():
                (path / "system" / "cgroup.procs").write_text(pid)
            _delegate(path)

    def joining(self, below: str) -> list[str]:
        """Return a command line that runs the command after it in this group."""
        files = " ".join(str(path / below / "cgroup.procs") for path in self._paths)
        script = f'for f in {files}; do echo 0 >"$f" || exit 1; done; exec "$@"'
        return ["/bin/sh", "-c", script, "sh"]

    def members(self) -> set[int]:
        """Return the pids of all processes in the group."""
        pids = set()
        for path in self._paths:
            for file in path.rglob("cgroup.procs"):
                # A group may end at this moment; a threaded v2 group has no list.
                with contextlib.suppress(OSError):
                    pids |= {int(pid) for pid in file.read_text().split()}
        return pids

    def exists(self) -> bool:
        """Return whether the group exists in any hierarchy."""
        return any(path.exists() for path in self._paths)

    def end(self) -> None:
        """Kill all processes in the group and remove it; raises SandboxError after 20 s."""
        deadline = time.monotonic() + 20
        while self.exists():
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for path in self._paths:
                # Deepest first; busy until its last process has ended.
                for folder in sorted([path, *path.rglob("*/")], reverse=True):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
            if time.monotonic() > deadline:
                raise SandboxError(f"{self._paths[0]}: {self.members()} in it do not end")
            time.sleep(0.05)
        for path in self._paths:
            # Not empty while another node runs.
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def _delegate(group: Path) -> None:
    """Let groups in a v2 group have limits of their own."""
    with contextlib.suppress(FileNotFoundError):
        controllers = (group / "cgroup.controllers").read_text().split()
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
