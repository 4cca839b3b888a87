"""What the gateway measures: along the answers, and by asking Ollama now and then."""

import asyncio
import hashlib
import hmac
import json
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple

import aiohttp
from gateway_rules import Route, Settings
from model_name import canonical
from opentelemetry.metrics import CallbackOptions, Meter, Observation

# Written once when a series ends: Prometheus' own staleness marker. Without it, what is pushed
# stays visible for five minutes after it has ceased to be true.
GONE: float = struct.unpack("<d", bytes.fromhex("020000000000f07f"))[0]
MODEL = "gen_ai.request.model"


def speaks(event: dict[str, Any]) -> bool:
    """Tell whether the event carries text, a thought or a tool call."""
    if str(event.get("type", "")).endswith("delta"):  # /v1/messages and /v1/responses
        return True
    choice = (event.get("choices") or [{}])[0]
    parts = (event, event.get("message"), choice, choice.get("delta"))
    keys = ("content", "response", "thinking", "text", "reasoning", "tool_calls")
    said = (part.get(key) for part in parts if isinstance(part, dict) for key in keys)
    return any(isinstance(text, str | list) and text for text in said)


class Tee:
    """Reads along with an answer: joins split lines, keeps the few numbers that count."""

    # JSON escapes quotes inside strings: what looks like a key is one, or a whole short string.
    MARKS: ClassVar = (b'"error"', b'"usage"', b'"done":true', b'_duration"')

    def __init__(self, limit: int) -> None:
        self.limit, self.part, self.skipping = limit, bytearray(), False
        self.first: float | None = None
        self.error = False
        self.final: dict[str, Any] = {}
        self.usage: dict[str, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes, wherever they were split."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self.append(line)
            self.end()
        self.append(rest)

    def append(self, piece: bytes) -> None:
        """Add to the current line unless it has become too long to read."""
        if self.skipping or len(self.part) + len(piece) > self.limit:
            self.skipping = True
            self.part.clear()
        else:
            self.part += piece

    def end(self) -> None:
        """Finish the current line, also one without a line feed."""
        line = bytes(self.part).removeprefix(b"data:").strip()
        self.part.clear()
        self.skipping = False
        # After the first token, of all lines only those with a mark are worth the parsing.
        if self.first is None or any(mark in line for mark in self.MARKS):
            with suppress(ValueError, TypeError, AttributeError, LookupError, RecursionError):
                self.see(json.loads(line))

    def see(self, event: Any) -> None:
        """Take from an event what counts."""
        self.error = self.error or bool(event.get("error"))
        if self.first is None and speaks(event):
            self.first = time.monotonic()
        if event.get("done") is True or "total_duration" in event:
            keys = {key for key in event if key.endswith(("_duration", "_count"))}
            self.final = {key: number(event[key]) for key in keys}
            self.final["done_reason"] = event.get("done_reason")
        for part in (event, event.get("message"), event.get("response")):
            if isinstance(part, dict) and isinstance(part.get("usage"), dict):
                self.usage |= {key: number(count) for key, count in part["usage"].items()}


def number(value: object) -> int:
    """Read a count or a duration; what Ollama leaves out is 0."""
    return max(0, value) if type(value) is int else 0


@dataclass(slots=True, kw_only=True)
class Call:
    """One request on its way."""

    tee: Tee
    start: float
    path: str = "unknown"
    route: Route | None = None
    model: str = ""
    user: str = ""
    stream: bool = False
    phase: str = ""
    too_large: bool = False

    def attributes(self, **more: str) -> dict[str, str]:
        """Give the attributes of the GenAI conventions."""
        assert self.route
        who = {"gen_ai.operation.name": self.route.operation, "gen_ai.provider.name": "ollama"}
        return who | {MODEL: self.model} | more


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


class Poller:
    """Asks Ollama what it holds, and forgets it when Ollama does not answer."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings, self.session = settings, session
        self.read = settings.bytes_read()
        self.values: dict[str, dict[str, float]] = {"ollama.up": {"": 0}}
        self.known: dict[str, str] = {}  # kept when Ollama is away: labels do not change for that
        self.ceilings: dict[str, float] = {}
        self.told: dict[str, set[str]] = {}
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
        """Ask one route, and leave no value behind when it fails."""
        start, path, found = time.monotonic(), f"/api/{name}", dict[str, Any]()
        # Not `raise_for_status`: what it raises holds the headers.
        with suppress(aiohttp.ClientError, OSError, ValueError, TypeError, LookupError):
            limit = aiohttp.ClientTimeout(total=5)
            async with self.session.get(self.settings.upstream + path, timeout=limit) as response:
                if response.status == 200:
                    see(json.loads(await response.read()), found)
                    values |= found
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
        gone = dict.fromkeys(self.told.get(name, set()) - set(now), GONE)
        self.told[name] = set(now)
        for key, value in (gone | now).items():
            yield Observation(value, {label: key} if label else {})

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


class Meters:
    """The instruments, and what of a request goes into which."""

    def __init__(self, settings: Settings, poller: Poller, meter: Meter) -> None:
        self.settings, self.poller, self.users = settings, poller, set[str]()

        def histogram(name: str, unit: str, description: str, *bounds: float) -> Any:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=bounds
            )

        # The conventions' bounds end at 82 s (request) and 10 s (first token): a CPU needs more.
        waits = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
        rates = (60, 50, 40, 30, 25, 20, 15, 12, 10, 8, 6, 5, 4, 2, 1)  # tokens/s, as durations
        self.duration = histogram(
            "gen_ai.server.request.duration", "s", "Until the last byte", *waits
        )
        self.first = histogram(
            "gen_ai.server.time_to_first_token", "s", "Until the first token", *waits
        )
        self.per_token = histogram(
            "gen_ai.server.time_per_output_token",
            "s",
            "Time for each token that Ollama generated",
            *(0.002, 0.005, 0.01),
            *(1 / rate for rate in rates),
        )
        self.tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens", *(4.0**n for n in range(11))
        )
        self.queue = histogram("ollama.queue.duration", "s", "Wait for a free slot", *waits)
        self.load = histogram("ollama.load.duration", "s", "Loads into memory", *waits)
        self.prefill = histogram(
            "ollama.prefill.tokens",
            "{token}/s",
            "Prompt tokens read per second, without those from the cache",
            *(5, 10, 20, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 5000),
        )
        self.requests = meter.create_counter("ollama.requests", "{request}", "By outcome")
        self.in_flight = meter.create_up_down_counter(
            "ollama.requests.in_flight", "{request}", "Sent to Ollama and not yet finished"
        )
        for name, gauge in GAUGES.items():

            def observe(_: CallbackOptions, name: str = name) -> Iterable[Observation]:
                return self.poller.observe(name)

            meter.create_observable_gauge(name, [observe], gauge.unit, gauge.description)

    def user(self, headers: Mapping[str, str]) -> str:
        """Give the pseudonym of the user, or nothing when the label is off."""
        if self.settings.user_label == "off":
            return ""
        if not (who := headers.get(self.settings.user_header, "")):
            return "none"
        key, text = self.settings.user_key.encode(), who.encode(errors="surrogateescape")
        pseudonym = hmac.new(key, text, hashlib.sha256).hexdigest()[:8]
        if pseudonym not in self.users and len(self.users) >= self.settings.user_cap:
            return "other"
        self.users.add(pseudonym)
        return pseudonym

    def move(self, call: Call, phase: str) -> None:
        """Put a request in flight, from `waiting` to `answering`, and out again with ``."""
        labels = {"http.route": call.path} | ({MODEL: call.model} if call.model else {})
        if call.phase:
            self.in_flight.add(-1, labels | {"ollama.phase": call.phase})
        if phase:
            self.in_flight.add(1, labels | {"ollama.phase": phase})
        call.phase = phase

    def finish(self, call: Call, outcome: str) -> None:
        """Count a request, whatever became of it."""
        self.move(call, "")
        labels = {"http.route": call.path, "ollama.outcome": outcome}
        labels |= {MODEL: call.model} if call.model else {}
        who = {"ollama.user": call.user} if call.user else {}
        self.requests.add(1, labels | who)
        if not (call.route and call.route.operation and call.model):
            return
        why = {} if outcome == "ok" else {"error.type": outcome}
        end = time.monotonic()
        self.duration.record(end - call.start, call.attributes(**why))
        if call.tee.first and call.stream:
            self.first.record(call.tee.first - call.start, call.attributes())
        if outcome == "ok":
            self.usage(call, end, who)

    def usage(self, call: Call, end: float, who: dict[str, str]) -> None:
        """Record what the last lines of a good answer say."""
        final, usage, attributes = call.tee.final, call.tee.usage, call.attributes()

        def took(what: str) -> float:
            return float(final.get(f"{what}_duration", 0)) / 1e9

        tokens = {
            kind: final.get(own, 0) or next((usage[key] for key in others if key in usage), 0)
            for kind, own, *others in (
                ("input", "prompt_eval_count", "prompt_tokens", "input_tokens"),
                ("output", "eval_count", "completion_tokens", "output_tokens"),
            )
        }
        for kind, count in tokens.items():
            if count:
                self.tokens.record(count, attributes | who | {"gen_ai.token.type": kind})
        written = tokens["output"]
        if took("eval") and written:
            self.per_token.record(took("eval") / written, attributes)
        elif call.stream and call.tee.first and written > 1 and not final:  # /v1 has no durations
            self.per_token.record((end - call.tee.first) / (written - 1), attributes)
        # A request that only loads has no durations: then all of its time was the load.
        only_load = final.get("done_reason") == "load"
        load = took("load") or (end - call.start if only_load else 0)
        if load >= self.settings.load_seconds:
            self.load.record(load, attributes)
        if took("eval"):
            # No field has the wait for a slot. It is what remains, with some ms of overhead.
            rest = took("total") - took("load") - took("prompt_eval") - took("eval")
            self.queue.record(max(0.0, rest), attributes)
        self.read_prompt(call, tokens["input"], took("prompt_eval"))

    def read_prompt(self, call: Call, prompt: int, seconds: float) -> None:
        """Record how fast the prompt was read, if the answer lets us know."""
        cached = call.tee.final.get("prompt_eval_cached_count")
        if not seconds or prompt <= (cached or 0):
            return
        rate = (prompt - (cached or 0)) / seconds
        # Ollama before 0.33 does not say how much came from its cache, and counts it all. Reading
        # is at most about 25 times as fast as writing on this kind of memory (measured: 322 and
        # 13.4 tokens/s): beyond 50 times the ceiling of writing, the cache was at work.
        if cached is None and not rate <= 50 * self.poller.ceilings.get(call.model, 0):
            return
        self.prefill.record(rate, call.attributes())
