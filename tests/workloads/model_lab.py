"""A real Ollama with a registry of this machine, and the model Job's program to run on it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import reconcile_models

from sandbox.model_registry import model_registry
from sandbox.pods import free_port

PROGRAM = Path(reconcile_models.__file__)
QUICK = {"PULL_BACKOFF_SECONDS": "0.05", "PULL_TRIES": "3", "PULL_STALL_SECONDS": "20"}
Model = str | dict[str, Any]
Before = Callable[[BaseHTTPRequestHandler], bool]


@dataclass
class Registry:
    """What the registry does otherwise than a good one."""

    environment: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    """The content under a name, where it is not the name's own."""
    faults: list[tuple[str, Before]] = field(default_factory=list)
    """Answers to the next requests whose host and path contain the word; each is given once."""
    always: dict[str, Before] = field(default_factory=dict)

    def before(self, handler: BaseHTTPRequestHandler) -> bool:
        """Answer a request in another way, if one is due."""
        place = handler.headers["Host"] + handler.path
        for word, answer in self.always.items():
            if word in place:
                return answer(handler)
        for one in self.faults:
            if one[0] in place and handler.command == "GET":
                self.faults.remove(one)
                return one[1](handler)
        return False


@contextmanager
def registry(folder: Path) -> Iterator[Registry]:
    """Run one."""
    made = Registry()
    with model_registry(folder, contents=made.contents, before=made.before) as environment:
        made.environment = environment
        yield made


@dataclass
class Told:
    """What a run of the program said."""

    code: int
    lines: list[str]

    @property
    def plan(self) -> list[str]:
        """The lines of its plan."""
        return [line.removeprefix("plan: ") for line in self.lines if line.startswith("plan: ")]


@dataclass
class Lab:
    """One server, with its models and the ledger on one volume."""

    ollama: Path
    folder: Path
    environment: dict[str, str]
    size: str
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Choose a port."""
        self.host = f"127.0.0.1:{free_port(())}"
        (self.folder / "volume").mkdir(parents=True)

    @property
    def volume(self) -> Path:
        """Where the models and the ledger are, as this process gets there."""
        assert self.process
        return Path(f"/proc/{self.process.pid}/root/{self.folder}/volume")

    @property
    def ledger(self) -> Path:
        """The folder of the ledger."""
        return self.volume / "homelab"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        mounted = small_volume(self.folder / "volume", self.size) if self.size else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*mounted, str(self.ollama), "serve"],
                env={
                    "PATH": "/usr/sbin:/usr/bin:/bin",
                    "HOME": str(self.folder),
                    "OLLAMA_HOST": self.host,
                    "OLLAMA_MODELS": str(self.folder / "volume" / "models"),
                    "OLLAMA_LLM_LIBRARY": "cpu",
                    "OLLAMA_NO_CLOUD": "1",
                    "OLLAMA_CONTEXT_LENGTH": "2048",
                    **self.environment,
                },
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.ask("GET", "/api/version")
                self.ledger.mkdir(exist_ok=True)
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """End the server and its runners as a power cut does."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask the server; the last line of its answer."""
        connection = HTTPConnection(self.host, timeout=60)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, text
            return dict(json.loads(text.splitlines()[-1])) if text else {}
        finally:
            connection.close()

    def by_hand(self, *arguments: str) -> None:
        """Run Ollama's own command, as a person in its pod would."""
        environment = {"OLLAMA_HOST": self.host, "HOME": str(self.folder)}
        command = [str(self.ollama), *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def digests(self) -> dict[str, str]:
        """The digest of each model that is there."""
        return {one["name"]: one["digest"] for one in self.ask("GET", "/api/tags")["models"]}

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file of the models and of the ledger, the lock left out."""
        found = [*self.volume.glob("models/**/*"), self.ledger / "models.json"]
        stats = {str(one): one.stat() for one in found if one.is_file()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}

    def begin(
        self, *models: Model, options: Sequence[str] = (), **more: str
    ) -> subprocess.Popen[str]:
        """Start the program for these models."""
        declared = self.folder / "declared.json"
        whole = [{"name": model} if isinstance(model, str) else model for model in models]
        declared.write_text(json.dumps(whole))
        ledger = {"LEDGER_FOLDER": str(self.ledger)}
        return subprocess.Popen(
            [sys.executable, "-u", PROGRAM, *options, declared],
            env={"OLLAMA_URL": f"http://{self.host}", **QUICK, **ledger, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *models: Model, options: Sequence[str] = (), **more: str) -> Told:
        """Run the program to its end."""
        process = self.begin(*models, options=options, **more)
        out, _ = process.communicate(timeout=120)
        return Told(process.returncode, out.splitlines())


@contextmanager
def lab(ollama: Path, folder: Path, environment: dict[str, str], size: str = "") -> Iterator[Lab]:
    """Run a server in a new folder; a `size` such as 700k gives it a volume of that size."""
    made = Lab(ollama, folder, environment, size)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def small_volume(folder: Path, size: str) -> list[str]:
    """Begin a command that has a volume of its own at `folder`, which goes when it ends."""
    mount = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]


def status(code: int, text: str) -> Before:
    """Answer with an error."""

    def answer(handler: BaseHTTPRequestHandler) -> bool:
        handler.send_response_only(code)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())
        return True

    return answer


class Spoilt:
    """Writes for a handler, but spoils the first long text: a file of a model."""

    def __init__(self, handler: BaseHTTPRequestHandler, spoil: Callable[[bytes], bytes]) -> None:
        self._inner, self._handler, self._spoil = handler.wfile, handler, spoil
        self.flush, self.close = handler.wfile.flush, handler.wfile.close
        self.closed = False

    def write(self, text: bytes) -> None:
        """Write, and hang up after less than was promised."""
        written = text
        if len(text) > 10_000:
            # The next request comes by the same connection.
            written, self._handler.wfile = self._spoil(text), self._inner
        self._inner.write(written)
        self._handler.close_connection |= len(written) < len(text)


def half(handler: BaseHTTPRequestHandler) -> bool:
    """Give the first half of a file, and hang up."""
    handler.wfile = Spoilt(handler, lambda text: text[: len(text) // 2])  # type: ignore[assignment]
    return False


def garbled(handler: BaseHTTPRequestHandler) -> bool:
    """Give other bytes than those of the file, as many."""
    handler.wfile = Spoilt(handler, lambda text: b"x" * len(text))  # type: ignore[assignment]
    return False


def slow(_: BaseHTTPRequestHandler) -> bool:
    """Answer as always, but only after a while."""
    time.sleep(0.1)
    return False
