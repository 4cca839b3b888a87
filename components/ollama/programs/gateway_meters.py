"""What the gateway measures of requests and their answers."""

import hashlib
import hmac
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway_poller import GAUGES, Poller
from gateway_rules import MODEL, RefusalError, Route, Settings
from gateway_tee import Tee
from opentelemetry.metrics import CallbackOptions, Meter, Observation


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
    refusal: RefusalError | None = None  # of a body that is passed on while it is read

    def attributes(self, **more: str) -> dict[str, str]:
        """Give the attributes of the GenAI conventions."""
        assert self.route
        who = {"gen_ai.operation.name": self.route.operation, "gen_ai.provider.name": "ollama"}
        return who | {MODEL: self.model} | more


class Meters:
    """The instruments, and what of a request goes into which."""

    def __init__(self, settings: Settings, poller: Poller, meter: Meter) -> None:
        self.settings, self.poller, self.users = settings, poller, set[str]()
        self.asked, self.heard = Counter[str](), dict[str, float]()

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
        self.limited = meter.create_counter(
            "ollama.requests.limited", "{request}", "Refused or ended by a limit of the gateway"
        )
        self.dropped = meter.create_counter(
            "ollama.keys.dropped", "{key}", "Keys of requests that were not passed on"
        )
        self.in_flight = meter.create_up_down_counter(
            "ollama.requests.in_flight", "{request}", "Sent to Ollama and not yet finished"
        )
        meter.create_observable_gauge(
            "ollama.model.silence",
            [self.silence],
            "s",
            "Since a model that is asked has last answered anything; 0: it is not asked",
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
        if call.model and bool(call.phase) != bool(phase):
            if phase and not self.asked[call.model]:
                self.hear(call)
            self.asked[call.model] += 1 if phase else -1
        labels = {"http.route": call.path} | ({MODEL: call.model} if call.model else {})
        if call.phase:
            self.in_flight.add(-1, labels | {"ollama.phase": call.phase})
        if phase:
            self.in_flight.add(1, labels | {"ollama.phase": phase})
        call.phase = phase

    def hear(self, call: Call) -> None:
        """Note that the model of this request has answered something."""
        self.heard[call.model] = time.monotonic()

    def silence(self, _: CallbackOptions) -> Iterable[Observation]:
        """Give for each model how long it has been asked, and answered nothing to anybody."""
        now = time.monotonic()
        for model, moment in list(self.heard.items()):  # another thread adds to it
            yield Observation(now - moment if self.asked[model] else 0, {MODEL: model})

    def drop(self, keys: Iterable[str]) -> None:
        """Count keys that were not passed on."""
        for key, count in Counter(keys).items():
            self.dropped.add(count, {"ollama.key": key})

    def finish(self, call: Call, outcome: str, limit: str = "") -> None:
        """Count a request, whatever became of it, and the limit that ended it."""
        self.move(call, "")
        if limit:
            self.limited.add(1, {"ollama.limit": limit})
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
        tokens = self.count(call, who)
        if outcome == "ok":
            self.speeds(call, end, tokens)

    def count(self, call: Call, who: dict[str, str]) -> dict[str, int]:
        """Record the tokens, and return them by type.

        Of an answer without counts, stopped or of `/v1`, what was seen to stream is counted.
        """
        final, usage, attributes = call.tee.final, call.tee.usage, call.attributes()
        tokens = {
            kind: final.get(own, 0) or next((usage[key] for key in others if key in usage), 0)
            for kind, own, *others in (
                ("input", "prompt_eval_count", "prompt_tokens", "input_tokens"),
                ("output", "eval_count", "completion_tokens", "output_tokens"),
            )
        }
        if call.stream and not (final or usage):
            tokens["output"] = call.tee.spoken
        for kind, count in tokens.items():
            if count:
                self.tokens.record(count, attributes | who | {"gen_ai.token.type": kind})
        return tokens

    def speeds(self, call: Call, end: float, tokens: dict[str, int]) -> None:
        """Record what the last lines of a good answer say of its time."""
        final, attributes = call.tee.final, call.attributes()

        def took(what: str) -> float:
            return float(final.get(f"{what}_duration", 0)) / 1e9

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
