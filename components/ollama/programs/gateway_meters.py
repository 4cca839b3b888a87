"""Metrics of requests and their responses."""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_poller import GAUGES, MODEL, Poller
from gateway_routes import RefusalError, Route
from gateway_settings import Settings
from gateway_stream import StreamParser
from opentelemetry.metrics import CallbackOptions, Meter, Observation


@dataclass(slots=True, kw_only=True)
class Call:
    """A request in flight."""

    parser: StreamParser
    start: float
    path: str = "unknown"
    route: Route | None = None
    model: str = ""
    user: str = ""
    stream: bool = False
    phase: str = ""
    refusal: RefusalError | None = None  # raised while a streamed body is sent

    def attributes(self, **more: str) -> dict[str, str]:
        """Return the attributes of the GenAI semantic conventions."""
        assert self.route
        base = {"gen_ai.operation.name": self.route.operation, "gen_ai.provider.name": "ollama"}
        return base | {MODEL: self.model} | more


class Meters:
    """The instruments, and the recording of requests."""

    def __init__(self, settings: Settings, poller: Poller, meter: Meter) -> None:
        self.settings, self.poller, self.users = settings, poller, set[str]()
        self.in_flight_by_model, self.last_output = Counter[str](), dict[str, float]()

        def histogram(name: str, unit: str, description: str, *bounds: float) -> Any:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=bounds
            )

        # The conventions' bounds end at 82 s (request) and 10 s (first token), too low for a CPU.
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
        self.limited = meter.create_counter(
            "ollama.requests.limited", "{request}", "Refused or ended by a limit of the gateway"
        )
        self.dropped = meter.create_counter(
            "ollama.keys.dropped", "{key}", "Keys dropped from requests"
        )
        self.in_flight = meter.create_up_down_counter(
            "ollama.requests.in_flight", "{request}", "Sent to Ollama and not finished"
        )
        meter.create_observable_gauge(
            "ollama.model.silence",
            [self.silence],
            "s",
            "Since the last output of a model that has requests; 0: no requests",
        )
        for name, gauge in GAUGES.items():

            def observe(_: CallbackOptions, name: str = name) -> Iterable[Observation]:
                return self.poller.observe(name)

            meter.create_observable_gauge(name, [observe], gauge.unit, gauge.description)

    def user(self, headers: Mapping[str, str]) -> str:
        """Return the pseudonym of the user; empty if the label is off."""
        if self.settings.user_label != "on":
            return ""
        if not (user := headers.get(self.settings.user_header, "")):
            return "none"
        key, text = self.settings.user_key.encode(), user.encode(errors="surrogateescape")
        pseudonym = hmac.new(key, text, hashlib.sha256).hexdigest()[:8]
        if pseudonym not in self.users and len(self.users) >= self.settings.user_cap:
            return "other"
        self.users.add(pseudonym)
        return pseudonym

    def move(self, call: Call, phase: str) -> None:
        """Set the phase of a request: `waiting`, `answering`, or empty when it has ended."""
        if call.model and bool(call.phase) != bool(phase):
            if phase and not self.in_flight_by_model[call.model]:
                self.note_output(call)
            self.in_flight_by_model[call.model] += 1 if phase else -1
        labels = {"http.route": call.path} | ({MODEL: call.model} if call.model else {})
        if call.phase:
            self.in_flight.add(-1, labels | {"ollama.phase": call.phase})
        if phase:
            self.in_flight.add(1, labels | {"ollama.phase": phase})
        call.phase = phase

    def note_output(self, call: Call) -> None:
        """Record that the model of this request has output now."""
        self.last_output[call.model] = time.monotonic()

    def silence(self, _: CallbackOptions) -> Iterable[Observation]:
        """Yield for each model with requests the seconds since its last output."""
        now = time.monotonic()
        for model, moment in list(self.last_output.items()):  # the event loop adds to it
            yield Observation(now - moment if self.in_flight_by_model[model] else 0, {MODEL: model})

    def drop(self, keys: Iterable[str]) -> None:
        """Count dropped keys."""
        for key, count in Counter(keys).items():
            self.dropped.add(count, {"ollama.key": key})

    def finish(self, call: Call, outcome: str, limit: str = "") -> None:
        """Count a request by outcome, and by the limit that ended it."""
        self.move(call, "")
        if limit:
            self.limited.add(1, {"ollama.limit": limit})
        labels = {"http.route": call.path, "ollama.outcome": outcome}
        labels |= {MODEL: call.model} if call.model else {}
        user = {"ollama.user": call.user} if call.user else {}
        self.requests.add(1, labels | user)
        if not (call.route and call.route.operation and call.model):
            return
        error = {} if outcome == "ok" else {"error.type": outcome}
        end = time.monotonic()
        self.duration.record(end - call.start, call.attributes(**error))
        if call.parser.first and call.stream:
            self.first.record(call.parser.first - call.start, call.attributes())
        tokens = self.count(call, user)
        if outcome == "ok":
            self.speeds(call, end, tokens)

    def count(self, call: Call, user: dict[str, str]) -> dict[str, int]:
        """Record the tokens, and return them by type.

        A response that was cancelled before its counts counts by its lines with output.
        """
        final, attributes = call.parser.final, call.attributes()
        tokens = {"input": final.get("prompt_eval_count", 0), "output": final.get("eval_count", 0)}
        if call.stream and not final:
            tokens["output"] = call.parser.output_lines
        for kind, count in tokens.items():
            if count:
                self.tokens.record(count, attributes | user | {"gen_ai.token.type": kind})
        return tokens

    def speeds(self, call: Call, end: float, tokens: dict[str, int]) -> None:
        """Record the speeds of a successful response."""
        final, attributes = call.parser.final, call.attributes()

        def seconds(part: str) -> float:
            return float(final.get(f"{part}_duration", 0)) / 1e9

        written = tokens["output"]
        if seconds("eval") and written:
            self.per_token.record(seconds("eval") / written, attributes)
        # The response to a mere load has no durations: all of its time was the load.
        only_load = final.get("done_reason") == "load"
        load = seconds("load") or (end - call.start if only_load else 0)
        if load >= self.settings.load_seconds:
            self.load.record(load, attributes)
        if seconds("eval"):
            # Ollama does not report the wait for a slot: it is the rest, with some ms of overhead.
            rest = seconds("total") - seconds("load") - seconds("prompt_eval") - seconds("eval")
            self.queue.record(max(0.0, rest), attributes)
        self.read_prompt(call, tokens["input"], seconds("prompt_eval"))

    def read_prompt(self, call: Call, prompt: int, seconds: float) -> None:
        """Record the prompt's tokens/s, unless the share of the cache is unknown."""
        cached = call.parser.final.get("prompt_eval_cached_count")
        if not seconds or prompt <= (cached or 0):
            return
        rate = (prompt - (cached or 0)) / seconds
        # Ollama before 0.33 counts cached tokens too, without their number. A CPU reads at
        # most 25 times as fast as it writes (measured: 322 and 13.4 tokens/s), so a rate beyond 50
        # times the ceiling of writing includes cached tokens.
        if cached is None and not rate <= 50 * self.poller.ceilings.get(call.model, 0):
            return
        self.prefill.record(rate, call.attributes())
