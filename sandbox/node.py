"""A node: a tree of namespaces with processes and a disk of its own, that ends as one."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import psutil

from sandbox import node_init
from sandbox.cgroup import Group, hierarchies
from sandbox.processes import Processes, SandboxError

HIDDEN = ("/etc", "/mnt", "/run", "/sys", "/var", "/proc")
"""Folders of the machine that a node sees none or other files of."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Node:
    """The node `name`, with all its state in `folder`; `pause` is the program that holds it."""

    def __init__(self, name: str, address: str, folder: Path, pause: Path) -> None:
        for path in (folder, pause.resolve()):
            if path.is_relative_to("/dev") or any(path.is_relative_to(top) for top in HIDDEN):
                raise SandboxError(f"{path}: must not be below {', '.join(HIDDEN)}")
        self.name, self.address, self.folder = name, address, folder
        self.processes = Processes(folder)
        self._pause = pause
        self._group = Group(folder)
        self._first = 0

    def hold(self, name: str, *namespaces: str) -> int:
        """Make new `namespaces` (options of unshare) that live with a process; give its pid."""
        return self.bound(name, ["unshare", *namespaces, self._pause]).pid

    def start(self, data: Mapping[str, Path], etc: Mapping[str, str]) -> int:
        """Make the node, and give the pid of its first process.

        `data` are folders that it has as disks, by where they are mounted; `etc` are contents of
        files in its /etc.
        """
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        settings = {
            "name": self.name,
            "address": self.address,
            "disk": str(self.folder / "disk"),
            "data": {target: str(source) for target, source in data.items()},
            "cgroups": [(str(path), *rest) for path, *rest in map(astuple, hierarchies())],
            "etc": dict(etc),
            "ready": str(ready),
            "pause": str(self._pause),
        }
        separate = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        command = ["unshare", *separate, "--fork", "--kill-child", "--propagation", "private"]
        first = [sys.executable, node_init.__file__, json.dumps(settings)]
        process = self.bound("node", [*command, *first])
        self.processes.retry("node", lambda: ready.read_text().index("ready"))
        (child,) = process.children()
        self._first = child.pid
        self._group.settle()
        return self._first

    def inside(self, *command: str | Path) -> list[str]:
        """Give the command line that runs `command` in the node, with nothing of ours around it."""
        enter = ["nsenter", "-t", str(self._first), "-m", "-u", "-i", "-n", "-p", "-C"]
        # Go collects at half its usual growth, which spares 140 MB of the control plane's.
        clean = ["env", "-i", f"PATH={PATH}", "HOME=/root", "GOGC=50"]
        return [*self._group.joining("system"), *enter, *clean, *map(str, command)]

    def run(self, *command: str | Path) -> str:
        """Run `command` in the node and give its output; raises SandboxError if it fails."""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        if done.returncode:
            what = shlex.join(map(str, command))[:200]
            raise SandboxError(f"{what}: exit code {done.returncode}, {done.stderr.strip()}")
        return done.stdout

    def service(self, name: str, command: Sequence[str | Path]) -> None:
        """Start `command` in the node; its log is `logs/name.log`."""
        self.processes.start(name, self.inside(*command), {"PATH": os.defpath})

    def listens(self, socket_: Path) -> None:
        """Raise OSError unless something listens on this Unix socket in the node."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/{self._first}/root{socket_}")

    def begin(self) -> None:
        """Make the control group, after ending what a run before this one has left."""
        self.end()
        self._group.make()

    def end(self) -> None:
        """Kill everything in the node and what holds it, and leave no control group."""
        self._group.end()

    def bound(self, name: str, command: Sequence[str | Path]) -> psutil.Process:
        """Start, outside the node, what ends with this process however this one ends."""
        bound = ["setpriv", "--pdeathsig", "KILL", *command]
        environment = {"PATH": PATH, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return self.processes.start(name, [*self._group.joining(), *bound], environment)
