"""Pull Ollama models over its HTTP API, patiently, and say how far it is."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple

HOST = os.environ.get("OLLAMA_URL", "").removeprefix("http://").rstrip("/")
# Of the gateway before Ollama, which lets nobody else change models.
TOKEN = os.environ.get("PULL_TOKEN", "")
WAIT = float(os.environ.get("PULL_WAIT_SECONDS", "600"))  # for the server to appear
STALL = float(os.environ.get("PULL_STALL_SECONDS", "300"))  # nothing limits a whole pull
TRIES = int(os.environ.get("PULL_TRIES", "5"))
BACKOFF = float(os.environ.get("PULL_BACKOFF_SECONDS", "10"))  # doubled after each failure
PROGRESS = float(os.environ.get("PULL_PROGRESS_SECONDS", "5"))  # the least time between lines
# On the volume of the models: what is free there is asked before a download.
FOLDER = Path(os.environ.get("LEDGER_FOLDER", "/ledger"))


class PullError(Exception):
    """A failure in words for a person."""


class FinalError(PullError):
    """A failure that another try would only repeat."""


def explain(text: str, status: int = 0) -> PullError:
    """Turn an error of Ollama, from a stream or with an HTTP status, into advice."""
    # The registry's 412 has several lines (ollama#14431), a failed download shows a signed URL.
    text = re.sub(r"\?\S+", "?...", " ".join(text.split()))[:300]
    if status == 412 or "manifest: 412:" in text or "requires a newer version" in text:
        return FinalError(f"needs a newer Ollama: raise the ollama image ({text})")
    # The registry's 404 in Go's words. "pull model manifest:" alone also begins passing failures.
    if "file does not exist" in text:
        return FinalError(f"no such model in the registry ({text})")
    if "no space left on device" in text:
        return FinalError(f"the volume for models is full ({text})")
    final = 400 <= status < 500 and status not in (408, 429)
    return (FinalError if final else PullError)(f"HTTP {status}: {text}" if status else text)


def comparable(name: str) -> str:
    """Write a model's name as `/api/tags` does, in lower case."""
    short = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


class Found(NamedTuple):
    """A model on the server, as `/api/tags` tells of it."""

    name: str
    size: int
    digest: str
    modified: str


class Progress:
    """One try to pull a model, all layers together, told in few lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.layers: dict[str, tuple[int, int]] = {}
        self.moved = self.told = time.monotonic()
        self.told_done = self.told_percent = 0

    def see(self, event: dict[str, Any]) -> None:
        """Count an event in, and raise `TimeoutError` when nothing has grown for too long."""
        now, layer = time.monotonic(), str(event.get("digest") or event.get("status"))
        done, total = int(event.get("completed") or 0), int(event.get("total") or 0)
        before = self.layers.get(layer, (-1, 0))[0]
        # Ollama repeats its line every 60 ms while a download stands still, and takes bytes
        # back when a part fails (server/download.go): neither is progress.
        if done > before:
            if before < 0:
                has_room(total - done)
            # What an earlier try left behind must not count in the rate.
            self.told_done += done if before < 0 else 0
            self.layers[layer], self.moved = (done, total), now
        elif now - self.moved > STALL:
            raise TimeoutError
        self.tell(now - self.told)

    def tell(self, quiet: float) -> None:
        """Print a line after 5 points or a long silence, never soon after the last one."""
        done, total = (sum(column) for column in zip(*self.layers.values(), strict=True))
        # Ollama announces layers one by one, so the percentage can also fall.
        percent = 100 * done // total if total else 0
        due = abs(percent - self.told_percent) >= 5 or quiet >= 12 * PROGRESS
        if total and due and quiet >= PROGRESS:
            rate = f"{(done - self.told_done) / quiet / 1e6:.1f} MB/s"
            print(f"{self.name}: {percent} %, {done / 1e9:.2f} of {total / 1e9:.2f} GB, {rate}")
            self.told, self.told_done, self.told_percent = self.told + quiet, done, percent


def has_room(needed: int) -> None:
    """Raise `FinalError` if the volume cannot take so many bytes more."""
    disk = os.statvfs(FOLDER)
    if needed > (free := disk.f_bavail * disk.f_frsize):
        room = f"{needed / 1e9:.2f} GB more do not fit into {free / 1e9:.2f} GB"
        raise FinalError(f"the volume for models is full: {room}")


@contextmanager
def ask(
    path: str, timeout: float = 10, body: object = None, method: str = "POST"
) -> Iterator[HTTPResponse]:
    """Give the answer, and make a `PullError` of all that fails until it is read.

    Without a `body` it is a GET, whatever the `method`.
    """
    try:
        with closing(HTTPConnection(HOST, timeout=timeout)) as connection:
            headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
            sent = None if body is None else json.dumps(body)
            connection.request("GET" if sent is None else method, path, sent, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise explain(response.read(1000).decode(errors="replace"), response.status)
            yield response
    except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
        why = f"no usable answer ({type(error).__name__}: {error})"
        if isinstance(error, TimeoutError):
            why = f"stalled: no progress for {timeout:g} s"
        raise PullError(why) from error


def wait() -> str:
    """Wait for the server and learn its version."""
    print(f"waiting up to {timedelta(seconds=WAIT)} for {HOST}")
    deadline = time.monotonic() + WAIT
    while True:
        try:
            with ask("/api/version") as response:
                return str(json.load(response)["version"])
        except PullError:
            if time.monotonic() > deadline:
                raise
        time.sleep(min(BACKOFF, 1))


def models() -> dict[str, Found]:
    """List what is there, by comparable name."""
    with ask("/api/tags") as response:
        return {
            comparable(one["name"]): Found(
                one["name"], int(one["size"]), str(one["digest"]), str(one.get("modified_at", ""))
            )
            for one in json.load(response)["models"]
        }


def pull(name: str) -> str:
    """Pull a model in one try and return its size."""
    progress = Progress(name)
    follow("/api/pull", {"model": name}, progress.see)
    return f"{sum(done for done, _ in progress.layers.values()) / 1e9:.2f} GB"


def follow(path: str, body: object, see: Callable[[dict[str, Any]], None]) -> None:
    """Let `see` see every event of what the server does, until it tells of its success."""
    with ask(path, STALL, body) as response:
        for line in response:
            event = dict(json.loads(line))
            if "error" in event:
                raise explain(str(event["error"]))
            see(event)
            if event.get("status") == "success":
                return
    raise PullError("the stream ended without success")


def persist(what: str, step: Callable[..., Any], *args: str) -> Any:
    """Do a step again after failures that may pass."""
    for tries in range(1, TRIES):
        try:
            return step(*args)
        except FinalError:
            raise
        except PullError as error:
            pause = BACKOFF * 2 ** (tries - 1)
            print(f"{what}: {error}; try {tries + 1} of {TRIES} in {pause:g} s")
            time.sleep(pause)
    return step(*args)
