"""The `random` plugin: RandomPassword, and nothing else."""

# The names of the methods are those of the gRPC service.
# ruff: noqa: N802

import secrets
import string
from typing import Any

from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2

from sandbox.stand_in import wire
from sandbox.stand_in.base import Change, RefusedError, StandIn, answering, differences

PASSWORD = "random:index/randomPassword:RandomPassword"
# Source of characters and defaults: the `random` provider's documentation of random_password.
SPECIAL = "!@#$%&*()-_=+[]{}<>:?"
CLASSES = {
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "numeric": string.digits,
    "special": SPECIAL,
}
DEFAULTS = dict.fromkeys(CLASSES, True) | {f"min{key.title()}": 0 for key in CLASSES}


def settled(inputs: dict[str, Any]) -> dict[str, Any]:
    """Fill in every default, and put `number` under its newer name `numeric`."""
    known = {key: value for key, value in inputs.items() if value is not None}
    numeric = known.pop("number", True)
    return {**DEFAULTS, "numeric": numeric, **known}


def problem(inputs: dict[str, Any]) -> tuple[str, str] | None:
    """Name the property of settled `inputs` that no password can satisfy, and why."""
    length = inputs.get("length")
    if wire.has_unknown(inputs):
        return None
    if not isinstance(length, int) or length < 1:
        return "length", f"length must be a whole number above 0, not {length}"
    if not any(inputs[key] for key in CLASSES):
        return "special", "at least one of upper, lower, numeric and special must be true"
    if (least := sum(inputs[f"min{key.title()}"] for key in CLASSES)) > length:
        return "length", f"length {length} is less than the {least} characters the minima ask for"
    return None


def password(inputs: dict[str, Any]) -> str:
    """Make a password as settled `inputs` describe it, from the system's random source."""
    pools = {key: pool for key, pool in CLASSES.items() if inputs[key]}
    if "special" in pools:
        pools["special"] = inputs.get("overrideSpecial") or SPECIAL
    characters = [
        secrets.choice(pools.get(key, CLASSES[key]))
        for key in CLASSES
        for _ in range(inputs[f"min{key.title()}"])
    ]
    everything = "".join(pools.values())
    characters += [secrets.choice(everything) for _ in range(inputs["length"] - len(characters))]
    secrets.SystemRandom().shuffle(characters)
    return "".join(characters)


class Random(StandIn):
    """Serves `RandomPassword`; every other kind is refused in Check."""

    package = "pulumi_random"

    @answering
    def Check(self, request: Any, _context: Any) -> provider_pb2.CheckResponse:
        """Refuse other kinds, and lengths no password can have."""
        if request.type != PASSWORD:
            message = f"{request.type}: the stand-in only makes RandomPassword"
            raise RefusedError(message)
        answer = provider_pb2.CheckResponse(inputs=request.news)
        if found := problem(settled(wire.plain(wire.read(request.news)))):
            answer.failures.add(property=found[0], reason=found[1])
        return answer

    @answering
    def Diff(self, request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Replace the password whenever anything about it changes."""
        old = settled(wire.plain(wire.read(request.old_inputs)))
        new = settled(wire.plain(wire.read(request.news)))
        changes = [
            Change(
                (key,),
                "UPDATE" if key in old and key in new else "ADD" if key in new else "DELETE",
                replaces=True,
            )
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in request.ignoreChanges
        ]
        return differences(changes, delete_first=False)

    @answering
    def Create(self, request: Any, _context: Any) -> provider_pb2.CreateResponse:
        """Make a password; nothing in a preview."""
        raw = wire.read(request.properties)
        inputs = settled(wire.plain(raw))
        if request.preview:
            return provider_pb2.CreateResponse(properties=request.properties)
        state = wire.reseal(inputs, raw) | {"result": wire.seal(password(inputs))}
        return provider_pb2.CreateResponse(id="none", properties=wire.write(state))

    @answering
    def Read(self, request: Any, _context: Any) -> provider_pb2.ReadResponse:
        """Hand back the state: a password exists nowhere else."""
        if not request.properties.fields:
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )

    @answering
    def Update(self, request: Any, _context: Any) -> provider_pb2.UpdateResponse:
        """Keep the state; nothing of a password can be updated."""
        return provider_pb2.UpdateResponse(properties=request.olds)

    def Delete(self, _request: Any, _context: Any) -> Empty:
        """Forget the password."""
        return Empty()
