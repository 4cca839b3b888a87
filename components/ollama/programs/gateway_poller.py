"""Asks Ollama now and then what it holds."""

import asyncio
import json
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from gateway_rules import MODEL, Settings
from model_name import canonical
from opentelemetry.metrics import Observation

# Written once when a series ends: Prometheus' own staleness marker. Without it, what is pushed
# stays visible for five minutes after it has ceased to be true.
GONE: float = struct.unpack("<d", bytes.fromhex("020000000000f07f"))[0]


class Gauge(NamedTuple):
    """What the poller finds, one series for each value of the label."""

    unit: str
    label: str
    description: str


GAUGES = {
    # Not the unit "1": Prometheus would append "_ratio".
    "ollama.up": Gauge("", "", "Whether Ollama answers"),
    "ollama.version.info": Gauge("", "ollama.version", "Always 1"),
    "ollama.poll.duration": Gauge("s", "http.route", "Time the last poll took"),
    "ollama.models.available": Gauge("{model}", "", "Models on disk"),
    "ollama.model.size": Gauge("By", MODEL, "Size on disk"),
    "ollama.models.loaded": Gauge("{model}", "", "Models in memory"),
    "ollama.model.loaded.size": Gauge("By", MODEL, "Memory a loaded model takes"),
    "ollama.model.loaded.gpu.size": Gauge("By", MODEL, "The part of it that is the GPU's"),
    "ollama.model.expires_in": Gauge("s", MODEL, "Until it is unloaded; a week or more: a week"),
    "ollama.ceiling.tokens": Gauge("{token}/s", MODEL, "Memory bandwidth / bytes per token"),
}
WEEK = 7 * 86400.0
MOST_READ = 4 * 2**20  # bytes of an answer; a list of 100 models is 50 kB


class Poller:
    """Asks Ollama what it holds, and forgets it when Ollama does not answer."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings, self.session = settings, session
        self.read = settings.bytes_read()
        self.values: dict[str, dict[str, float]] = {"ollama.up": {"": 0}}
        self.known: dict[str, str] = {}  # kept when Ollama is away: labels do not change for that
        self.ceilings: dict[str, float] = {}
        # The series of the last collection, and those that the receiver knows.
        self.given: dict[str, set[str]] = {}
        self.received: dict[str, set[str]] = {}
        self.failures: dict[str, str] = {}
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Poll, at once again if something may have changed."""
        while True:
            await self.poll()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.settings.poll_seconds)
            await asyncio.sleep(min(1, self.settings.poll_seconds))
            self.wake.clear()

    async def poll(self) -> None:
        """Ask the three routes, each for itself."""
        values: dict[str, dict[str, float]] = {name: {} for name in GAUGES}
        routes = {"version": self.see_version, "tags": self.see_tags, "ps": self.see_ps}
        await asyncio.gather(*(self.ask(name, see, values) for name, see in routes.items()))
        up = values["ollama.up"] = {"": float(bool(values["ollama.version.info"]))}
        if up != self.values["ollama.up"]:
            print(f"Ollama {'answers' if up[''] else 'does not answer'}")
        self.values = values

    async def ask(self, name: str, see: Callable[..., None], values: dict[str, Any]) -> None:
        """Ask one route, and leave no value behind when it fails, whatever the answer is."""
        start, path, found = time.monotonic(), f"/api/{name}", dict[str, Any]()
        limit, failure = aiohttp.ClientTimeout(total=5), ""
        try:
            async with self.session.get(self.settings.upstream + path, timeout=limit) as response:
                raw = b""
                async for piece in response.content.iter_any():
                    if len(raw := raw + piece) > MOST_READ:
                        raise OverflowError
                if response.status != 200:
                    failure = f"HTTP {response.status}"
                else:
                    see(json.loads(raw), found)
                    values |= found
        except Exception as error:  # without its words, which may be a prompt's
            failure = type(error).__name__
        if failure != self.failures.get(path, ""):
            print(f"poll of {path}: {failure or 'success'}")
        self.failures[path] = failure
        values["ollama.poll.duration"][path] = time.monotonic() - start

    def see_version(self, answer: Any, found: dict[str, Any]) -> None:
        """Read `/api/version`."""
        found["ollama.version.info"] = {str(answer["version"]): 1.0}

    def see_tags(self, answer: Any, found: dict[str, Any]) -> None:
        """Read `/api/tags`."""
        sizes = {str(model["name"]): float(model["size"]) for model in answer["models"]}
        rate = self.settings.bandwidth
        # Never more than there is: the same name may be a smaller file elsewhere.
        told = {name: self.read.get(canonical(name), size) for name, size in sizes.items()}
        reads = {name: min(told[name], size) for name, size in sizes.items()}
        self.ceilings = {name: rate / size for name, size in reads.items() if size and rate}
        self.known = {canonical(name): name for name in sizes}
        found["ollama.models.available"] = {"": float(len(sizes))}
        found["ollama.model.size"] = sizes
        found["ollama.ceiling.tokens"] = self.ceilings

    def see_ps(self, answer: Any, found: dict[str, Any]) -> None:
        """Read `/api/ps`."""
        models = {str(model["name"]): model for model in answer["models"]}
        found["ollama.models.loaded"] = {"": float(len(models))}
        for name, key in (("size", "size"), ("gpu.size", "size_vram")):
            loaded = {model: float(one.get(key, 0)) for model, one in models.items()}
            found[f"ollama.model.loaded.{name}"] = loaded
        expiry = {name: seconds_until(one.get("expires_at")) for name, one in models.items()}
        found["ollama.model.expires_in"] = expiry

    def observe(self, name: str) -> Iterable[Observation]:
        """Give the values of a gauge, and the end of those that are gone."""
        now, label = dict(self.values.get(name, {})), GAUGES[name].label
        gone = dict.fromkeys(self.received.get(name, set()) - set(now), GONE)
        self.given[name] = set(now)
        self.received.setdefault(name, set()).update(now)
        for key, value in (gone | now).items():
            yield Observation(value, {label: key} if label else {})

    def pushed(self) -> None:
        """Forget what has ended: the receiver knows it since the last collection arrived."""
        self.received = {name: set(keys) for name, keys in self.given.items()}

    def label(self, model: object) -> str:
        """Give the label of a model: a name on disk, or `other`."""
        name = self.known.get(canonical(model)) if isinstance(model, str) else None
        if name is None:
            self.wake.set()
        return name or "other"


def seconds_until(text: object) -> float:
    """Turn `expires_at` into seconds, also when it lies centuries ahead."""
    try:
        moment = datetime.fromisoformat(str(text))
        return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), WEEK)
    except (ValueError, TypeError, OverflowError):
        return WEEK
