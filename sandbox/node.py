"""A node: a tree of namespaces with processes and a disk of its own, which ends as a whole."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from sandbox import node_init
from sandbox.cgroup import Group, hierarchies
from sandbox.processes import Processes, SandboxError

HIDDEN = ("/dev", "/etc", "/mnt", "/run", "/sys", "/var", "/proc")
"""Folders of the machine that a node does not see."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Node:
    """The node `name`, with its whole state in `folder`; `pause` is its first process."""

    def __init__(self, name: str, address: str, folder: Path, pause: Path) -> None:
        for path in (folder, pause.resolve()):
            if any(path.is_relative_to(top) for top in HIDDEN):
                raise SandboxError(f"{path}: must not be below {', '.join(HIDDEN)}")
        self.name, self.address, self.folder = name, address, folder
        self.processes = Processes(folder)
        self._pause = pause
        self._group = Group(folder)
        self._pid = 0

    def hold(self, name: str, *namespaces: str) -> int:
        """Create `namespaces`, options of unshare, that end with a process; returns its pid."""
        return self.bound(name, ["unshare", *namespaces, self._pause]).pid

    def start(self, disks: Mapping[str, Path], etc: Mapping[str, str]) -> int:
        """Create the node; returns the pid of its first process.

        `disks` are folders that the node has as disks, by mount point; `etc` are the contents of
        files in its /etc.
        """
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        settings = {
            "name": self.name,
            "state": str(self.folder / "disk"),
            "disks": {target: str(source) for target, source in disks.items()},
            "cgroups": hierarchies(),
            "etc": dict(etc),
            "ready": str(ready),
            "pause": str(self._pause),
        }
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        command = ["unshare", *namespaces, "--fork", "--kill-child", "--propagation", "private"]
        init = [sys.executable, node_init.__file__, json.dumps(settings)]
        # Of the group itself, because its cgroup namespace begins where it is; then it settles.
        process = self.bound("node", [*command, *init], group="")
        self.processes.retry("node", lambda: ready.read_text().index("ready"))
        (child,) = process.children()
        self._pid = child.pid
        self._group.settle()
        return self._pid

    def inside(self, *command: str | Path) -> list[str]:
        """Return the command line that runs `command` in the node, in a clean environment."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-n", "-p", "-C"]
        # Go collects garbage at half its usual growth, which saves 140 MB of the control plane.
        clean = ["env", "-i", f"PATH={PATH}", "HOME=/root", "GOGC=50"]
        return [*self._group.joining("system"), *enter, *clean, *map(str, command)]

    def run(self, *command: str | Path) -> str:
        """Run `command` in the node; returns its output, or raises SandboxError if it fails."""
        result = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        if result.returncode:
            line = shlex.join(map(str, command))[:200]
            raise SandboxError(f"{line}: exit code {result.returncode}, {result.stderr.strip()}")
        return result.stdout

    def service(self, name: str, command: Sequence[str | Path]) -> None:
        """Start `command` in the node; its log is `logs/name.log`."""
        self.processes.start(name, self.inside(*command), {"PATH": os.defpath})

    def connect(self, path: str) -> None:
        """Raise OSError unless a process listens on the Unix socket `path` in the node."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/{self._pid}/root{path}")

    def begin(self) -> None:
        """Create the control group; kills what an earlier run has left in it."""
        self.end()
        self._group.create()

    def end(self) -> None:
        """Kill all processes of the node, and remove the control group."""
        self._group.end()

    def bound(
        self, name: str, command: Sequence[str | Path], group: str = "system"
    ) -> psutil.Process:
        """Start a process outside the node that is killed when this process ends."""
        bound = ["setpriv", "--pdeathsig", "KILL", *command]
        environment = {"PATH": PATH, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return self.processes.start(name, [*self._group.joining(group), *bound], environment)
