"""Poller of Ollama's version and models."""

import asyncio
import json
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
from gateway_settings import Settings
from model_name import canonical
from opentelemetry.metrics import Observation

# Prometheus' staleness marker, written once when a series ends: otherwise a pushed series is
# returned for five more minutes.
STALE: float = struct.unpack("<d", bytes.fromhex("020000000000f07f"))[0]


MODEL = "gen_ai.request.model"
"""Label of a model's name."""


class Gauge(NamedTuple):
    """A gauge of the poller, with one series for each value of the label."""

    unit: str
    label: str
    description: str


GAUGES = {
    # Not the unit "1": Prometheus would append "_ratio".
    "ollama.up": Gauge("", "", "Whether Ollama answers"),
    "ollama.model.size": Gauge("By", MODEL, "Size on disk"),
    "ollama.model.loaded.size": Gauge("By", MODEL, "Memory of a loaded model"),
    "ollama.model.loaded.gpu.size": Gauge("By", MODEL, "The part of it in the GPU's memory"),
    "ollama.model.expires_in": Gauge("s", MODEL, "Until it is unloaded, at most a week"),
    "ollama.ceiling.tokens": Gauge("{token}/s", MODEL, "Memory bandwidth / bytes per token"),
}
WEEK = 7 * 86400.0
MAX_RESPONSE = 4 * 2**20  # bytes; a list of 100 models is 50 kB


class Poller:
    """Polls Ollama; a route that fails has no values until it succeeds again."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings, self.session = settings, session
        self.bytes_read = settings.bytes_read()
        self.values: dict[str, dict[str, float]] = {"ollama.up": {"": 0}}
        self.known: dict[str, str] = {}  # kept while Ollama is down, so that labels do not change
        self.ceilings: dict[str, float] = {}
        # Series of the last collection, and those that the receiver has.
        self.collected: dict[str, set[str]] = {}
        self.received: dict[str, set[str]] = {}
        self.failures: dict[str, str] = {}
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Poll at intervals, and early when `wake` is set."""
        while True:
            await self.poll()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), self.settings.poll_seconds)
            await asyncio.sleep(min(1, self.settings.poll_seconds))
            self.wake.clear()

    async def poll(self) -> None:
        """Request the three routes concurrently, and replace all values."""
        values: dict[str, dict[str, float]] = {name: {} for name in GAUGES}
        routes = {"version": self.read_version, "tags": self.read_tags, "ps": self.read_ps}
        await asyncio.gather(*(self.request(name, read, values) for name, read in routes.items()))
        up = values["ollama.up"] = values["ollama.up"] or {"": 0.0}
        if up != self.values["ollama.up"]:
            print(f"Ollama {'answers' if up[''] else 'does not answer'}")
        self.values = values

    async def request(self, name: str, read: Callable[..., None], values: dict[str, Any]) -> None:
        """Add the values of a route; none if it fails or its response is invalid."""
        path, new = f"/api/{name}", dict[str, Any]()
        limit, failure = aiohttp.ClientTimeout(total=5), ""
        try:
            async with self.session.get(self.settings.upstream + path, timeout=limit) as response:
                raw = b""
                async for piece in response.content.iter_any():
                    if len(raw := raw + piece) > MAX_RESPONSE:
                        raise OverflowError
                if response.status != 200:
                    failure = f"HTTP {response.status}"
                else:
                    read(json.loads(raw), new)
                    values |= new
        except Exception as error:  # without its text, which may have a prompt
            failure = type(error).__name__
        if failure != self.failures.get(path, ""):
            print(f"poll of {path}: {failure or 'success'}")
        self.failures[path] = failure

    def read_version(self, response: Any, values: dict[str, Any]) -> None:
        """Read `/api/version`."""
        values["ollama.up"] = {"": float(bool(response["version"]))}

    def read_tags(self, response: Any, values: dict[str, Any]) -> None:
        """Read `/api/tags`."""
        sizes = {str(model["name"]): float(model["size"]) for model in response["models"]}
        rate = self.settings.bandwidth
        # At most the model's size, because a model of the same name may be quantized further.
        reads = {
            name: min(self.bytes_read.get(canonical(name), size), size)
            for name, size in sizes.items()
        }
        self.ceilings = {name: rate / size for name, size in reads.items() if size and rate}
        self.known = {canonical(name): name for name in sizes}
        values["ollama.model.size"] = sizes
        values["ollama.ceiling.tokens"] = self.ceilings

    def read_ps(self, response: Any, values: dict[str, Any]) -> None:
        """Read `/api/ps`."""
        models = {str(model["name"]): model for model in response["models"]}
        for name, key in (("size", "size"), ("gpu.size", "size_vram")):
            loaded = {model: float(entry.get(key, 0)) for model, entry in models.items()}
            values[f"ollama.model.loaded.{name}"] = loaded
        expiry = {name: seconds_until(it.get("expires_at")) for name, it in models.items()}
        values["ollama.model.expires_in"] = expiry

    def observe(self, name: str) -> Iterable[Observation]:
        """Yield the values of a gauge, and a staleness marker for each series that has ended."""
        now, label = dict(self.values.get(name, {})), GAUGES[name].label
        ended = dict.fromkeys(self.received.get(name, set()) - set(now), STALE)
        self.collected[name] = set(now)
        self.received.setdefault(name, set()).update(now)
        for key, value in (ended | now).items():
            yield Observation(value, {label: key} if label else {})

    def mark_pushed(self) -> None:
        """Record that the receiver has the last collection, its staleness markers included."""
        self.received = {name: set(keys) for name, keys in self.collected.items()}

    def label(self, model: object) -> str:
        """Return the label of a model: its name on disk, or `other`."""
        name = self.known.get(canonical(model)) if isinstance(model, str) else None
        if name is None:
            self.wake.set()
        return name or "other"


def seconds_until(text: object) -> float:
    """Return the seconds until `expires_at`, at most a week; a week if it is invalid."""
    try:
        moment = datetime.fromisoformat(str(text))
        return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), WEEK)
    except (ValueError, TypeError, OverflowError):
        return WEEK
