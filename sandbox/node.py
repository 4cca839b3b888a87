"""A node: a privileged container of runc with a disk of its own, which ends as a whole."""

import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import yaml
from tenacity import Retrying, stop_after_delay, wait_fixed

from sandbox.addons import MANIFESTS
from sandbox.processes import MARK, NAME, Processes, SandboxError

OWN = ("dev", "etc", "mnt", "proc", "run", "sys", "var")
"""Folders in / that are not the machine's."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KINDS = ("bounding", "effective", "permitted")
STATE = ("lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers")
"""Folders in /var that the next start has again."""


def container(folder: Path) -> str:
    """Return the name of the node in `folder`: of its container, and of its control groups."""
    return f"homelab-node-{sha256(str(folder).encode()).hexdigest()[:8]}"


def runc(folder: Path) -> list[str]:
    """Return the command line of runc for the node in `folder`."""
    return ["runc", "--root", str(folder / "runc")]


def groups(folder: Path) -> list[Path]:
    """Return all control groups of the node in `folder`, the deepest first."""
    name, root = container(folder), Path("/sys/fs/cgroup")
    return sorted([*root.glob(f"{name}/**/"), *root.glob(f"*/{name}/**/")], reverse=True)


def end(folder: Path) -> None:
    """Kill all processes of the node in `folder` and those bound to it; remove its control groups.

    An engine's end with it.
    """
    processes = Processes(folder)
    processes.stop([""], grace=1)
    if (folder / "runc").exists():
        delete = [*runc(folder), "delete", "--force", container(folder)]
        subprocess.run(delete, capture_output=True, check=True)
    processes.stop([*processes.alive()], grace=1)
    # runc gives up after 0.3 s, when some processes may not have ended yet.
    patient = Retrying(stop=stop_after_delay(20), wait=wait_fixed(0.05), reraise=True)
    for group in groups(folder):
        patient(group.rmdir)


class Node:
    """The node `name`, with its whole state in `folder`; `pause` is its first process."""

    def __init__(self, name: str, address: str, folder: Path, pause: Path) -> None:
        for path in (folder, pause.resolve()):
            if path.parts[1] in OWN:
                raise SandboxError(f"{path}: got a folder in /{path.parts[1]}, want one elsewhere")
        self.name, self.address, self.folder = name, address, folder
        self.processes = Processes(folder)
        self._pause, self._container, self._pid = pause, container(folder), 0

    def start(self, disks: Mapping[str, Path], etc: Mapping[str, str]) -> int:
        """Create the node; returns the pid of its first process.

        `disks` are folders that the node has as disks, by mount point; `etc` are the contents of
        files in its /etc.
        """
        shutil.rmtree(self.folder / "etc", ignore_errors=True)
        for path, content in etc.items():
            file = self.folder / "etc" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        bound = {**{f"/var/{path}": self.folder / "disk" / path for path in STATE}, **disks}
        for folder in (self.folder / "root", self.folder / "etc-work", *bound.values()):
            folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self._config(bound)))
        pid = self.folder / "pid"
        pid.unlink(missing_ok=True)
        # Private, so that no mount of the container can reach the machine.
        alone = ["unshare", "--mount", "--propagation", "private"]
        at = ["--bundle", str(self.folder), "--pid-file", str(pid)]
        self.bound("node", [*alone, *runc(self.folder), "run", *at, self._container])
        ready = "/proc/{}/root/run/ready"
        self.processes.retry("node", lambda: Path(ready.format(pid.read_text())).stat())
        self._pid = int(pid.read_text())
        return self._pid

    def inside(self, *command: str | Path, options: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs `command` in the node, with options of `runc exec`."""
        return [*runc(self.folder), "exec", *options, self._container, *map(str, command)]

    def run(self, *command: str | Path) -> str:
        """Run `command` in the node; returns its output, or raises SandboxError if it fails."""
        result = subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)
        if result.returncode:
            line = shlex.join(map(str, command))[:200]
            raise SandboxError(f"{line}: exit code {result.returncode}, {result.stderr.strip()}")
        return result.stdout

    def service(self, name: str, command: Sequence[str | Path]) -> None:
        """Start `command` in the node; its log is `logs/name.log`."""
        marks = [f"--env={MARK}={self.folder}", f"--env={NAME}={name}"]
        pid = self.folder / "service-pid"
        options = ["--detach", "--pid-file", str(pid), *marks]
        detached = self.inside(*command, options=options)
        with self.processes.log(name).open("wb") as log:
            subprocess.run(detached, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        # If it has ended at once, the wait for it says so.
        with contextlib.suppress(psutil.NoSuchProcess):
            self.processes.adopt(name, int(pid.read_text()))

    def connect(self, path: str) -> None:
        """Raise OSError unless a process listens on the Unix socket `path` in the node."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/{self._pid}/root{path}")

    def hold(self, name: str, *namespaces: str) -> int:
        """Create `namespaces`, options of unshare, that end with a process; returns its pid."""
        return self.bound(name, ["unshare", *namespaces, self._pause]).pid

    def bound(self, name: str, command: Sequence[str | Path]) -> psutil.Process:
        """Start a process outside the node that is killed when this process ends."""
        environment = {"PATH": PATH, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return self.processes.start(name, ["setpriv", "--pdeathsig", "KILL", *command], environment)

    def _config(self, bound: Mapping[str, Path]) -> dict[str, Any]:
        """Return the container's configuration, with the folders in `bound` by mount point."""
        config: dict[str, Any] = yaml.safe_load((MANIFESTS / "node.yaml").read_text())
        machine = [path for path in Path("/").iterdir() if path.is_dir() and path.name not in OWN]
        layers = ("lowerdir=/etc", f"upperdir={self.folder}/etc", f"workdir={self.folder}/etc-work")
        config["mounts"] = [
            # First, so that the node's own mounts do not appear in them again.
            *(_mount(path, path, "rbind", "rprivate") for path in machine),
            *config["mounts"],
            _mount("/etc", "overlay", *layers),
            *(_mount(target, source, "rbind") for target, source in bound.items()),
        ]
        # All that this process may have: runc refuses others.
        own = subprocess.run(["setpriv", "--dump"], capture_output=True, text=True, check=True)
        (names,) = re.findall(r"bounding set: (.*)", own.stdout)
        capabilities = [f"CAP_{name.upper()}" for name in names.split(",")]
        config["process"]["args"].append(str(self._pause))
        config["process"]["env"].append(f"PATH={PATH}")
        config["process"]["capabilities"] = dict.fromkeys(KINDS, capabilities)
        config["hostname"] = self.name
        config["linux"]["cgroupsPath"] = f"/{self._container}"
        return config


def _mount(target: str | Path, source: str | Path, *options: str) -> dict[str, Any]:
    kind = "overlay" if source == "overlay" else "bind"
    return {"destination": str(target), "type": kind, "source": str(source), "options": options}
