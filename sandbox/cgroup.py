"""The one control group that all processes of a node are in, in every hierarchy (v1 and v2)."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sandbox.processes import SandboxError

ROOT = Path("/sys/fs/cgroup")
NAME = "homelab-node"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A hierarchy of control groups as this machine has it."""

    path: Path
    """Where it is mounted."""
    kind: str
    """Its file system, `cgroup` or `cgroup2`."""
    options: str
    """What it is mounted with: its controllers or its name; empty for `cgroup2`."""


def hierarchies() -> list[Hierarchy]:
    """Give all that are mounted on this machine."""
    known = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()}
    result = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            own = [word for word in options.split(",") if word in known or word[:5] == "name="]
            result.append(Hierarchy(Path(path), kind, ",".join(own)))
    return result


class Group:
    """The control group `homelab-node/…` of the node whose state lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        # Two nodes on one machine do not share a group.
        name = sha256(str(folder).encode()).hexdigest()[:8]
        self._paths = [one.path / NAME / name for one in hierarchies()]

    def make(self) -> None:
        """Make it, and below it `system` for all that is not a pod."""
        for path in self._paths:
            if (path.parent.parent / "cpuset.cpus").exists():
                path.parent.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (path.parent / file).write_text((path.parent.parent / file).read_text())
                # What is made below has the same processors.
                (path.parent / "cgroup.clone_children").write_text("1")
            (path / "system").mkdir(parents=True, exist_ok=True)
            _delegate(path.parent)

    def settle(self) -> None:
        """Move its processes into `system`: on v2 a group that divides itself can have none."""
        for path in self._paths:
            for pid in (path / "cgroup.procs").read_text().split():
                (path / "system" / "cgroup.procs").write_text(pid)
            _delegate(path)

    def joining(self, below: str = "") -> list[str]:
        """Give what goes before a command so that it is run in this group."""
        files = " ".join(str(path / below / "cgroup.procs") for path in self._paths)
        script = f'for f in {files}; do echo 0 >"$f" || exit 1; done; exec "$@"'
        return ["/bin/sh", "-c", script, "sh"]

    def members(self) -> set[int]:
        """Give the pids of all that is in it."""
        pids = set()
        for path in self._paths:
            for file in path.rglob("cgroup.procs"):
                # It may go at this moment; a v2 group with threads of its own gives no answer.
                with contextlib.suppress(OSError):
                    pids |= {int(pid) for pid in file.read_text().split()}
        return pids

    def exists(self) -> bool:
        """Say whether it is there, in any hierarchy."""
        return any(path.exists() for path in self._paths)

    def end(self) -> None:
        """Kill all that is in it, and remove it; raises SandboxError if that cannot be done."""
        deadline = time.monotonic() + 20
        while self.exists():
            for pid in self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for path in self._paths:
                _remove(path)
            if time.monotonic() > deadline:
                raise SandboxError(f"{self._paths[0]}: {self.members()} in it do not end")
            time.sleep(0.05)
        for path in self._paths:
            # Another node's may be beside it.
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def _remove(path: Path) -> None:
    # Deepest first; busy as long as one of its processes is going.
    folders = [folder for folder in path.rglob("*") if folder.is_dir()] + [path]
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _delegate(group: Path) -> None:
    """Let the groups below this one have limits of their own, where that is not so by itself."""
    with contextlib.suppress(FileNotFoundError):
        controllers = (group / "cgroup.controllers").read_text().split()
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
