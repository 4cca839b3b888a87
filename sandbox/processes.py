"""Background processes that outlive the command that started them, and how to end only those."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_delay,
    wait_fixed,
)

from sandbox.apiserver import FAILURES

MARK = "HOMELAB_SANDBOX"
"""Variable by which a CLI and its plugins carry the folder of the cluster they were started for."""
ADVICE = {
    errno.ENOSPC: "free some space there, or name another folder",
    errno.EDQUOT: "free some space there, or name another folder",
    errno.EROFS: "name a folder that can be written to",
    errno.EACCES: "make it writable for this user, or name another folder",
    errno.EPERM: "make it writable for this user, or name another folder",
    errno.ENOTDIR: "a file is in the way: remove it, or name another folder",
    errno.EEXIST: "a file is in the way: remove it, or name another folder",
    errno.ENOENT: "name a folder that can be created",
}


class SandboxError(RuntimeError):
    """Why the sandbox cannot go on, in one line for the person at the terminal."""


@contextlib.contextmanager
def readable_errors(folder: Path) -> Iterator[None]:
    """Turn a full, read-only or missing disk under `folder` into a SandboxError naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        path = error.filename or folder
        message = f"{path}: {os.strerror(error.errno)}; {ADVICE[error.errno]}"
        raise SandboxError(message) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if missing) for this process; a second one says so and waits."""
    with readable_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (folder / "lock").open("a+")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            # Whoever has just got it may not have written yet.
            who = handle.read() or "another"
            print(f"  waiting for process {who}, which works in {folder}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        with readable_errors(folder):
            yield


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step with a file that only its owner can read (mode 0600)."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def is_free(port: int) -> bool:
    """Say whether nothing listens on `port` of 127.0.0.1."""
    with socket.socket() as probe:
        # A connection that was closed a moment ago does not keep a listener out.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(number: int) -> list[int]:
    """Give so many ports of 127.0.0.1 on which nothing listens."""
    # Below 30000 lie neither node ports nor those that Linux and macOS give to clients.
    candidates = random.sample(range(20000, 30000), 1000)
    return list(itertools.islice(filter(is_free, candidates), number))


def kept_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """Give each name the port of 127.0.0.1 that `file` keeps, all of them new if one is taken."""
    ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    if ports.keys() != set(names) or not all(map(is_free, ports.values())):
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        write_private(file, json.dumps(ports))
    return ports


def _born(process: psutil.Process) -> float:
    # In seconds since boot: unlike the time of day, it stays when the clock is set.
    return float(process.create_time() - psutil.boot_time())


def _end(processes: Sequence[psutil.Process], grace: float) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=grace)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=grace)


def end_marked(folder: Path) -> None:
    """End what an engine of `folder` started and left, wherever its program is."""
    left = []
    for process in psutil.process_iter():
        # Another user's process does not tell.
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                left.append(process)
    _end(left, grace=1)


class Processes:
    """The processes recorded in `folder`, each with a log in `folder/logs`."""

    def __init__(self, folder: Path) -> None:
        self._record = folder / "pids.json"
        self._logs = folder / "logs"

    def log(self, name: str) -> Path:
        """Give the file that takes the output of `name` since it was last started."""
        return self._logs / f"{name}.log"

    def last_line(self, name: str) -> str:
        """Give the last line that `name` wrote, or its last panic; empty when it wrote none."""
        try:
            lines = self.log(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        # What a Go program dies of stands above its stack traces. Three hundred characters: the
        # same in JSON is one line.
        deaths = [line for line in lines if line.startswith(("panic:", "fatal error:"))]
        return (deaths or lines or [""])[-1][:300]

    def start(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str]
    ) -> psutil.Process:
        """Start `command` in a session of its own, with nothing but `env` in its environment."""
        self._logs.mkdir(exist_ok=True)
        gate, opener = os.pipe()
        # The command begins only after its pid is on disk: if we are killed in between, the
        # pipe closes and the shell gives up, so no process is ever running unrecorded.
        script = f"read -r go && exec {shlex.join(map(str, command))} </dev/null"
        with self.log(name).open("wb") as log, os.fdopen(gate), os.fdopen(opener, "w") as go:
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", script],
                env,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, gate, 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
                setsid=True,
            )
            process = psutil.Process(pid)
            self._write({**self._read(), name: (pid, _born(process))})
            go.write("go\n")
        return process

    def alive(self) -> dict[str, psutil.Process]:
        """Give those that still run, by name."""
        found = {}
        for name, (pid, born) in self._read().items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                # Pids are used again: only the time of its birth says that it is ours.
                ours = abs(_born(process) - born) < 2
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found[name] = process
        return found

    def retry(
        self,
        name: str,
        step: Callable[[], object],
        seconds: float = 60,
        beside: Sequence[str] = (),
    ) -> None:
        """Take `step`, that asks the process `name`, again while it raises one of FAILURES.

        Raises SandboxError when it, or one that it needs `beside` it, has ended, or after
        `seconds`.
        """

        def ended() -> list[str]:
            return [one for one in (*beside, name) if one not in self.alive()]

        waiting = Retrying(
            retry=retry_if_exception_type(FAILURES) & retry_if_exception(lambda _: not ended()),
            stop=stop_after_delay(seconds),
            wait=wait_fixed(0.1),
            reraise=True,
        )
        try:
            waiting(step)
        except FAILURES as error:
            name, *_ = (left := ended()) or [name]
            what = "ended" if left else f"did not get ready ({error})"
            hint = " (`down` throws away what a power cut broke)" if name == "etcd" else ""
            message = f"{name} {what}; {self.log(name)} ends with: {self.last_line(name)}{hint}"
            raise SandboxError(message) from error

    def stop(self, names: Sequence[str], grace: float = 5.0) -> None:
        """End the named ones together: SIGTERM, and SIGKILL after `grace` seconds."""
        alive = self.alive()
        chosen = [alive[name] for name in names if name in alive]
        if not chosen:
            return
        _end(chosen, grace)
        left = self.alive()
        self._write({name: entry for name, entry in self._read().items() if name in left})

    def end_lost(self, programs: Path) -> None:
        """End what was started from `programs` for this folder, when somebody deleted the record.

        Such a process has the folder as its HOME.
        """
        known, below = {process.pid for process in self.alive().values()}, f"{programs}/"
        lost = []
        for process in psutil.process_iter():
            # Another user's process does not tell.
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("HOME") == str(self._record.parent)
                if ours and process.pid not in known and process.cmdline()[0].startswith(below):
                    lost.append(process)
        _end(lost, grace=1)

    def memory(self) -> int:
        """Add up the resident memory of all that run, in bytes."""
        total = 0
        for process in self.alive().values():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def _read(self) -> dict[str, tuple[int, float]]:
        try:
            entries = json.loads(self._record.read_text())
        except FileNotFoundError:
            return {}
        return {name: (pid, born) for name, (pid, born) in entries.items()}

    def _write(self, entries: Mapping[str, tuple[int, float]]) -> None:
        write_private(self._record, json.dumps(entries))
