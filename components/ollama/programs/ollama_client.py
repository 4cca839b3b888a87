"""Client of Ollama's API for the model Job; every failure is an OllamaError of one line."""

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

PAUSES = (10.0, 20.0, 40.0, 80.0, 160.0)  # seconds before each retry
STALL = 300.0  # timeout without progress, in seconds; a download as a whole has none
LOAD = 1200.0  # timeout of loading a model, in seconds; more than OLLAMA_LOAD_TIMEOUT
PROGRESS = 20.0  # interval of progress lines, in seconds


class OllamaError(Exception):
    """A failure that a retry may solve, in one line."""


class FinalError(OllamaError):
    """A failure that a retry cannot solve."""


class ServerModel(NamedTuple):
    """A model as `/api/tags` lists it."""

    digest: str
    """64 hex digits."""
    modified: str
    size: int = 0
    """Bytes."""
    base: str = ""
    """The model that a variant was created from; known from the ledger only."""


class Ollama:
    """The server at `url`, such as `http://host:11434`; every method raises OllamaError.

    The gateway requires `token` for changes of models. `folder` is on the models' disk, whose free
    space is checked before a download.
    """

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self._url, self._folder = url.rstrip("/"), folder
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def models(self) -> dict[str, ServerModel]:
        """Return the models by canonical name, with retries."""
        models = _retry("list of models", lambda: self._call("GET", "/api/tags"))["models"]
        return {
            canonical(row["name"]): ServerModel(row["digest"], row["modified_at"], row["size"])
            for row in models
        }

    def pull(self, name: str) -> None:
        """Pull a model, with retries, and print the progress."""
        _retry(name, lambda: self._pull(name))

    def create(self, request: Mapping[str, Any]) -> None:
        """Create or replace a model; `request` is the body of `/api/create`."""
        list(self._stream("/api/create", request))

    def load(self, name: str, keep_alive: str) -> None:
        """Load a model; `keep_alive` is `2h`, `-1` for ever, or empty for the server's default."""
        # A string without a unit is invalid, so -1 has to be a number.
        option = {"keep_alive": -1 if keep_alive == "-1" else keep_alive} if keep_alive else {}
        self._call("POST", "/api/generate", {"model": name, "stream": False, **option}, LOAD)

    def delete(self, name: str) -> None:
        """Delete a model."""
        self._call("DELETE", "/api/delete", {"model": name})

    def _pull(self, name: str) -> None:
        layers: dict[str, tuple[int, int]] = {}
        progressed = printed = time.monotonic()
        received = 0
        with closing(self._stream("/api/pull", {"model": name})) as events:
            for event in events:
                now, layer = time.monotonic(), str(event.get("digest") or event.get("status"))
                done, total = int(event.get("completed") or 0), int(event.get("total") or 0)
                before, _ = layers.get(layer, (-1, 0))
                # Ollama repeats its event every 60 ms while a download stalls, and subtracts bytes
                # when a part fails (server/download.go): neither is progress.
                if done > before:
                    layers[layer], progressed = (done, total), now
                    received += done - before if before >= 0 else 0
                elif now - progressed > STALL:
                    raise OllamaError(f"no progress for {STALL:g} s")
                if before < 0 and total - done > (free := disk_usage(self._folder).free):
                    sizes = f"needs {(total - done) / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
                    raise FinalError(f"the volume for models is full: {sizes}")
                done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                if total and (seconds := now - printed) >= PROGRESS:
                    size = f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"
                    rate = f"{received / seconds / 1e6:.1f} MB/s"
                    print(f"{name}: {100 * done // total} %, {size}, {rate}")
                    printed, received = now, 0

    def _call(self, method: str, path: str, body: object = None, timeout: float = 10) -> Any:
        with self._request(method, path, body, timeout) as response:
            return json.loads(response.read() or "{}")

    def _stream(self, path: str, body: object) -> Generator[dict[str, Any], None, None]:
        """Yield the events of a response until one reports success."""
        with self._request("POST", path, body, STALL) as response:
            for line in response:
                event = dict(json.loads(line))
                if "error" in event:
                    raise api_error(str(event["error"]))
                yield event
                if event.get("status") == "success":
                    return
        raise OllamaError("the stream ended without success")

    @contextmanager
    def _request(self, method: str, path: str, body: object, timeout: float) -> Iterator[Any]:
        """Yield the response; raises OllamaError for every failure until it is read."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, self._headers, method=method)
        try:
            with urlopen(request, timeout=timeout) as response:
                yield response
        except HTTPError as error:
            raise api_error(error.read(1000).decode(errors="replace"), error.code) from error
        except TimeoutError as error:
            raise OllamaError(f"no progress for {timeout:g} s") from error
        except (OSError, HTTPException, ValueError, TypeError, KeyError) as error:
            reason = getattr(error, "reason", error)
            raise OllamaError(f"no valid response from {self._url}: {reason}") from error


def api_error(text: str, status: int = 0) -> OllamaError:
    """Return the error for Ollama's `text`, of a stream or of a response with this HTTP status."""
    with suppress(ValueError, TypeError, KeyError):
        text = str(json.loads(text)["error"])
    # The registry's 412 has several lines (ollama#14431), and a failed download a signed URL.
    text = re.sub(r"\?\S+", "?...", " ".join(text.split()))[:300]
    # The registry's status is in the text; the response has Ollama's, 200 or 500.
    registry = re.search(r"pull model manifest: (\d{3})\b", text)
    code = int(registry[1]) if registry else status
    if "sharded" in text:
        advice = "has several files, which Ollama cannot pull: choose a tag with one file"
        return FinalError(f"{advice} ({text})")
    if code == 412 or "requires a newer version" in text:
        return FinalError(f"requires a newer Ollama: update ollama.image ({text})")
    # Go's text for the registry's 404; "pull model manifest:" alone may also be temporary.
    if "file does not exist" in text:
        return FinalError(f"model not found in the registry: check its name ({text})")
    if "no space left on device" in text:
        return FinalError(f"the volume for models is full ({text})")
    is_final = 400 <= code < 500 and code not in (408, 429)
    return (FinalError if is_final else OllamaError)(f"HTTP {status}: {text}" if status else text)


def _retry(name: str, step: Callable[[], Any]) -> Any:
    """Return the result of `step`, and retry it unless a FinalError is raised."""
    for pause in PAUSES:
        try:
            return step()
        except FinalError:
            raise
        except OllamaError as error:
            print(f"{name}: {error}; retrying in {pause:g} s")
            time.sleep(pause)
    return step()
