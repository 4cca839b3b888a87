"""Ollama's API as the model Job uses it: every failure is an OllamaError of one line."""

import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from model_name import canonical

PAUSES = (10.0, 20.0, 40.0, 80.0, 160.0)  # seconds between tries
STALL = 300.0  # seconds without progress; a whole download has no limit
LOAD = 1200.0  # seconds to load a model; Ollama gives up sooner, after OLLAMA_LOAD_TIMEOUT
PROGRESS = 20.0  # seconds between two lines of progress


class OllamaError(Exception):
    """A failure in one line; another try may succeed."""


class FinalError(OllamaError):
    """A failure that another try would only repeat."""


class ServerModel(NamedTuple):
    """A model as `/api/tags` lists it: 64 hex digits, a time, and bytes.

    What a variant was created from, its `base`, is in the ledger alone.
    """

    digest: str
    modified: str
    size: int = 0
    base: str = ""


class Ollama:
    """The server at `url`, such as `http://host:11434`; every method raises OllamaError.

    Its gateway asks for `token` where models are changed. `folder` is on the disk of the models:
    what is free there is looked at before a download.
    """

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self._url, self._folder = url.rstrip("/"), folder
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def models(self) -> dict[str, ServerModel]:
        """List the models by canonical name; a server that does not answer is asked again."""
        models = _retried("list of models", lambda: self._ask("GET", "/api/tags"))["models"]
        return {
            canonical(one["name"]): ServerModel(one["digest"], one["modified_at"], one["size"])
            for one in models
        }

    def pull(self, name: str) -> None:
        """Pull a model, in several tries if need be, and print how far it is."""
        _retried(name, lambda: self._pull(name))

    def create(self, request: Mapping[str, Any]) -> None:
        """Create a model, or replace the one of that name; `request` as `/api/create` takes it."""
        list(self._stream("/api/create", request))

    def load(self, name: str, keep_alive: str) -> None:
        """Load a model, for `keep_alive` after each use: `2h`, `-1` for ever, or as the server."""
        # Ollama takes a text only with a unit.
        kept = {"keep_alive": -1 if keep_alive == "-1" else keep_alive} if keep_alive else {}
        self._ask("POST", "/api/generate", {"model": name, "stream": False, **kept}, LOAD)

    def delete(self, name: str) -> None:
        """Delete a model."""
        self._ask("DELETE", "/api/delete", {"model": name})

    def _pull(self, name: str) -> None:
        layers: dict[str, tuple[int, int]] = {}
        grown = printed = time.monotonic()
        received = 0
        with closing(self._stream("/api/pull", {"model": name})) as events:
            for event in events:
                now, layer = time.monotonic(), str(event.get("digest") or event.get("status"))
                done, total = int(event.get("completed") or 0), int(event.get("total") or 0)
                before, _ = layers.get(layer, (-1, 0))
                # Ollama repeats its line every 60 ms while a download stands still, and takes
                # bytes back when a part fails (server/download.go): neither is progress.
                if done > before:
                    layers[layer], grown = (done, total), now
                    received += done - before if before >= 0 else 0
                elif now - grown > STALL:
                    raise OllamaError(f"no progress for {STALL:g} s")
                if before < 0 and total - done > (free := disk_usage(self._folder).free):
                    sizes = f"{(total - done) / 1e9:.2f} GB more, {free / 1e9:.2f} GB are free"
                    raise FinalError(f"the volume for models is full: {sizes}")
                done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                if total and (seconds := now - printed) >= PROGRESS:
                    size = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
                    rate = f"{received / seconds / 1e6:.1f} MB/s"
                    print(f"{name}: {100 * done // total} %, {size}, {rate}")
                    printed, received = now, 0

    def _ask(self, method: str, path: str, body: object = None, timeout: float = 10) -> Any:
        with self._request(method, path, body, timeout) as response:
            return json.loads(response.read() or "{}")

    def _stream(self, path: str, body: object) -> Generator[dict[str, Any], None, None]:
        """Yield the events of an answer until one reports success."""
        with self._request("POST", path, body, STALL) as response:
            for line in response:
                event = dict(json.loads(line))
                if "error" in event:
                    raise explained(str(event["error"]))
                yield event
                if event.get("status") == "success":
                    return
        raise OllamaError("the stream ended without success")

    @contextmanager
    def _request(self, method: str, path: str, body: object, timeout: float) -> Iterator[Any]:
        """Yield the answer; whatever fails until it is read is an OllamaError."""
        text = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, text, self._headers, method=method)
        try:
            with urlopen(request, timeout=timeout) as response:
                yield response
        except HTTPError as error:
            raise explained(error.read(1000).decode(errors="replace"), error.code) from error
        except TimeoutError as error:
            raise OllamaError(f"no progress for {timeout:g} s") from error
        except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
            reason = getattr(error, "reason", error)
            raise OllamaError(f"no usable answer from {self._url}: {reason}") from error


def explained(text: str, status: int = 0) -> OllamaError:
    """Return the error for what Ollama says in a stream, or in an answer with this HTTP status."""
    with suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["error"])
    # The registry's 412 has several lines (ollama#14431), a failed download shows a signed URL.
    text = re.sub(r"\?\S+", "?...", " ".join(text.split()))[:300]
    # What the registry has answered, in words: 200 or 500 is only Ollama's own status.
    in_words = re.search(r"pull model manifest: (\d{3})\b", text)
    said = int(in_words[1]) if in_words else status
    if "sharded" in text:
        advice = "is in several files, which Ollama does not pull: take a tag that is one file"
        return FinalError(f"{advice} ({text})")
    if said == 412 or "requires a newer version" in text:
        return FinalError(f"needs a newer Ollama: raise ollama.image ({text})")
    # The registry's 404 in Go's words; "pull model manifest:" alone also begins passing failures.
    if "file does not exist" in text:
        return FinalError(f"no such model in the registry: correct the name ({text})")
    if "no space left on device" in text:
        return FinalError(f"the volume for models is full ({text})")
    final = 400 <= said < 500 and said not in (408, 429)
    return (FinalError if final else OllamaError)(f"HTTP {status}: {text}" if status else text)


def _retried(name: str, step: Callable[[], Any]) -> Any:
    """Return what `step` returns; after failures that may pass it is tried again."""
    for pause in PAUSES:
        try:
            return step()
        except FinalError:
            raise
        except OllamaError as error:
            print(f"{name}: {error}; next try in {pause:g} s")
            time.sleep(pause)
    return step()
