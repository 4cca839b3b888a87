"""Pull Ollama models over its HTTP API, and end well only when each one is really there."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any, NoReturn

HOST = os.environ.get("OLLAMA_URL", "").removeprefix("http://").rstrip("/")
# Of the gateway before Ollama, which lets nobody else change models.
TOKEN = os.environ.get("PULL_TOKEN", "")
WAIT = float(os.environ.get("PULL_WAIT_SECONDS", "600"))  # for the server to appear
STALL = float(os.environ.get("PULL_STALL_SECONDS", "300"))  # nothing limits a whole pull
TRIES = int(os.environ.get("PULL_TRIES", "5"))
BACKOFF = float(os.environ.get("PULL_BACKOFF_SECONDS", "10"))  # doubled after each failure
PROGRESS = float(os.environ.get("PULL_PROGRESS_SECONDS", "5"))  # the least time between lines


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


@contextmanager
def ask(path: str, timeout: float = 10, body: str = "") -> Iterator[HTTPResponse]:
    """Give the answer, and make a `PullError` of all that fails until it is read."""
    try:
        with closing(HTTPConnection(HOST, timeout=timeout)) as connection:
            headers = {"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}
            connection.request("POST" if body else "GET", path, body or None, headers)
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


def models() -> dict[str, str]:
    """List what is there: size and short digest by comparable name."""
    with ask("/api/tags") as response:
        return {
            comparable(model["name"]): f"{model['size'] / 1e9:8.2f} GB  {model['digest'][:12]}"
            for model in json.load(response)["models"]
        }


def pull(name: str) -> str:
    """Pull a model in one try and return its size."""
    progress = Progress(name)
    with ask("/api/pull", STALL, json.dumps({"model": name})) as response:
        for line in response:
            event = dict(json.loads(line))
            if "error" in event:
                raise explain(str(event["error"]))
            progress.see(event)
            if event.get("status") == "success":
                return f"{sum(done for done, _ in progress.layers.values()) / 1e9:.2f} GB"
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


def stop(number: int, _frame: object) -> NoReturn:
    """End at once, with the exit code a shell gives for the signal."""
    os.write(1, b"stopped by a signal; the next run goes on with what is there\n")
    sys.exit(128 + number)


def main(names: list[str]) -> int:
    """Run the program and return its exit code."""
    if not (names and HOST):
        print("usage: OLLAMA_URL=http://host:11434 pull_models.py MODEL...", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, stop)
    version, failed, how = "?", dict[str, str](), dict.fromkeys(names, "already there")
    try:
        version = wait()
        print(f"Ollama {version} answers")
        there: dict[str, str] = persist("/api/tags", models)
        for name in (name for name in how if comparable(name) not in there):
            print(f"{name}: pulling")
            start = time.monotonic()
            try:
                size = persist(name, pull, name)
                how[name] = f"pulled in {timedelta(seconds=int(time.monotonic() - start))}"
                print(f"{name}: {size} {how[name]}")
            except PullError as error:
                failed[name] = how[name] = str(error)
                print(f"{name}: given up, {error}")
        there = persist("/api/tags", models)
    except PullError as error:
        there, failed = {}, dict.fromkeys(how, str(error)) | failed
    for name in how:
        if row := there.get(comparable(name)):
            print(f"{name:<{max(map(len, how))}}  {row}  {how[name]}")
        else:
            failed.setdefault(name, "pulled, but /api/tags does not list it")
    if failed:
        reasons = "; ".join(f"{name} - {why}" for name, why in failed.items())
        print(f"failed on Ollama {version}: {reasons}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
