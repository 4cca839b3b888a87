"""Background processes that outlive the command that started them, and how to end only those."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import urllib3
from kubernetes.client import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

MARK, NAME = "HOMELAB_SANDBOX", "HOMELAB_PROCESS"
"""Environment variables of processes that belong to a cluster: its folder, and their name in it."""
FAILURES = (OSError, ValueError, urllib3.exceptions.HTTPError, ApiException, ResourceNotFoundError)
"""Exceptions of a request to a server that is not ready."""
FULL = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


class SandboxError(RuntimeError):
    """A failure of the sandbox, in one line with the reason."""


@contextlib.contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or missing disk under `folder` into a SandboxError naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, *UNUSABLE):
            raise
        reason = f"{error.filename or folder}: {os.strerror(error.errno)}"
        raise SandboxError(f"{reason}; want a writable folder with free space") from error


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Lock `folder`, created if missing, for this process; waits for another, and says so.

    Raises SandboxError in place of waiting if `wait` is false.
    """
    with readable_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (folder / "lock").open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            # The holder may not have written its pid yet.
            holder = handle.read() or "another"
            if not wait:
                message = f"{folder}: process {holder} works in it; end it first: kill {holder}"
                raise SandboxError(message) from None
            print(f"  waiting for process {holder}, which works in {folder}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        with readable_errors(folder):
            yield


def write_private(path: Path, text: str) -> None:
    """Replace `path` atomically with a file that only its owner can read (mode 0600)."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def is_free(port: int) -> bool:
    """Return whether nothing listens on `port` of 127.0.0.1."""
    with socket.socket() as listener:
        # A connection that was closed a moment ago does not keep a listener out.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Return `count` ports of 127.0.0.1 on which nothing listens."""
    # Below 30000: node ports, and the ports that Linux and macOS give to clients, are above.
    candidates = random.sample(range(20000, 30000), 1000)
    return list(itertools.islice(filter(is_free, candidates), count))


def kept_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Return the ports in `file` by name; replaces all of them if a port is taken."""
    ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    if ports.keys() != set(names) or not all(map(is_free, ports.values())):
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        write_private(file, json.dumps(ports))
    return ports


def probe(url: str, authority: Path | None = None) -> None:
    """Raise one of FAILURES unless `url` answers 200; `authority` signs its certificate."""
    # urllib3 by itself uses no proxy of the environment. A busy machine's first answers take 2 s.
    with urllib3.PoolManager(ca_certs=str(authority) if authority else None) as pool:
        response = pool.request("GET", url, timeout=10, retries=False)
    if response.status != 200:
        raise ConnectionError(f"{url}: {response.status} {response.data[:300]!r}")


class Processes:
    """The processes with `folder` in MARK, each with a log in `folder/logs`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, psutil.Process] = {}

    def log(self, name: str) -> Path:
        """Return the log of the process `name` since its last start."""
        return self._folder / "logs" / f"{name}.log"

    def last_line(self, name: str) -> str:
        """Return the last panic in the log of `name`, or its last line; "" if it has none."""
        try:
            lines = self.log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        # A Go program writes its stack traces below the panic. 300 characters are a line of JSON.
        panics = [line for line in lines if line.startswith(("panic:", "fatal error:"))]
        return (panics or lines or [""])[-1][:300]

    def start(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str]
    ) -> psutil.Process:
        """Start `command` in a session of its own; `env` is its environment, besides the marks."""
        self.log(name).parent.mkdir(exist_ok=True)
        with self.log(name).open("wb") as log:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**env, MARK: str(self._folder), NAME: name},
                start_new_session=True,
            )
        return self.adopt(name, started.pid)

    def adopt(self, name: str, pid: int) -> psutil.Process:
        """Return a process that was just started as `name`, when it has its marks or has ended.

        Raises psutil.NoSuchProcess if nothing is left of it.
        """
        process = self._started[name] = psutil.Process(pid)
        with contextlib.suppress(psutil.Error):
            # It has those of the program before it until the kernel has replaced that.
            while MARK not in process.environ():
                time.sleep(0.001)
        return process

    def alive(self) -> dict[str, psutil.Process]:
        """Return the processes that run, by name, without their children."""
        # The oldest of each name, which comes last.
        return {name: process for name, process in reversed(self._marked()) if name}

    def retry(
        self,
        name: str,
        step: Callable[[], object],
        seconds: float = 60,
        beside: Sequence[str] = (),
    ) -> None:
        """Repeat `step`, which asks the process `name`, while it raises one of FAILURES.

        Raises SandboxError when `name` or a process in `beside` has ended, or after `seconds`.
        """

        def ended() -> list[str]:
            alive = self.alive()
            return [each for each in (*beside, name) if each not in alive and not self._runs(each)]

        waiting = Retrying(
            retry=retry_if_exception_type(FAILURES) & retry_if_exception(lambda _: not ended()),
            stop=stop_after_delay(seconds),
            wait=wait_fixed(0.1),
            reraise=True,
        )
        try:
            waiting(step)
        except FAILURES as error:
            name, *_ = (gone := ended()) or [name]
            reason = "ended" if gone else f"did not get ready ({error})"
            hint = " (`down` deletes what a power cut has damaged)" if name == "etcd" else ""
            message = f"{name} {reason}; {self.log(name)} ends with: {self.last_line(name)}{hint}"
            raise SandboxError(message) from error

    def stop(self, names: Sequence[str], grace: float = 5.0) -> None:
        """End the named processes together: SIGTERM, and SIGKILL after `grace` seconds.

        Those without a name are of an engine that was killed.
        """
        chosen = [process for name, process in self._marked() if name in names]
        for process in chosen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(chosen, timeout=grace)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=grace)

    def _runs(self, name: str) -> bool:
        """Return whether a process that this object started runs, though nothing marks it.

        At the moment in which it becomes another program, it has no environment.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            process = self._started.get(name)
            return bool(process and process.status() != psutil.STATUS_ZOMBIE)
        return False

    def _marked(self) -> list[tuple[str, psutil.Process]]:
        """Return name and process, oldest first; children have the name of their parent."""
        marked = []
        for process in psutil.process_iter():
            # Another user's process has no readable environment, and a zombie none.
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if environment.get(MARK) == str(self._folder) and process.pid != os.getpid():
                    marked.append((process.create_time(), environment.get(NAME, ""), process))
        return [(name, process) for _, name, process in sorted(marked, key=lambda each: each[0])]
