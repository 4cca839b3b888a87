"""A plugin for `RandomPassword` where Pulumi's `random` plugin cannot be downloaded.

It generates passwords as the official one does, from the inputs in DEFAULTS, and nothing else.
"""

import os
import secrets
import string
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pulumi.provider.experimental import provider
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.server import main as serve

PASSWORD = "random:index/randomPassword:RandomPassword"
# Source of characters and defaults: the `random` provider's documentation of random_password.
CLASSES = {
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "numeric": string.digits,
    "special": "!@#$%&*()-_=+[]{}<>:?",
}
DEFAULTS: dict[str, Any] = {"length": None, **dict.fromkeys(CLASSES, True)}


def with_defaults(inputs: Mapping[str, PropertyValue]) -> dict[str, Any]:
    """Return the values of `inputs` with every default, without those of the engine's own."""
    values = {key: item.value for key, item in inputs.items() if not key.startswith("__")}
    return DEFAULTS | {key: value for key, value in values.items() if value is not None}


def problem(inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return a property that no password can have, and why; `inputs` have all defaults."""
    if unknown := sorted(inputs.keys() - DEFAULTS.keys()):
        return unknown[0], f"{', '.join(unknown)}: only the official plugin knows it"
    if not isinstance(length := inputs["length"], float | int) or length < 1:
        return "length", f"length: got {length}, want a whole number above 0"
    if not any(inputs[name] for name in CLASSES):
        return "special", "upper, lower, numeric, special: got all false, want one true"
    return None


def password(inputs: Mapping[str, Any]) -> str:
    """Generate a password from the system's random source; `inputs` have all defaults."""
    characters = "".join(pool for name, pool in CLASSES.items() if inputs[name])
    return "".join(secrets.choice(characters) for _ in range(int(inputs["length"])))


class Random(provider.Provider):
    """Provides `RandomPassword`; its check refuses every other type."""

    async def check(self, request: provider.CheckRequest) -> provider.CheckResponse:
        """Refuse other types, and inputs that no password can have."""
        failure = problem(with_defaults(request.new_inputs))
        if not request.type.endswith(PASSWORD):
            failure = "", f"{request.type}: only the official plugin knows it"
        failures = [provider.CheckFailure(*failure)] if failure else []
        return provider.CheckResponse(request.new_inputs, failures)

    async def diff(self, request: provider.DiffRequest) -> provider.DiffResponse:
        """Replace the password whenever one of its inputs changes."""
        old, new = with_defaults(request.old_state), with_defaults(request.new_inputs)
        changed = [key for key in DEFAULTS if old[key] != new[key]]
        return provider.DiffResponse(changes=bool(changed), replaces=changed, diffs=changed)

    async def create(self, request: provider.CreateRequest) -> provider.CreateResponse:
        """Generate a password; nothing in a preview."""
        if request.preview:
            return provider.CreateResponse("", request.properties)
        inputs = with_defaults(request.properties)
        state = {key: PropertyValue(value) for key, value in inputs.items()}
        state["result"] = PropertyValue(password(inputs), is_secret=True)
        return provider.CreateResponse("none", state)

    async def delete(self, request: provider.DeleteRequest) -> None:
        """Delete nothing: a password exists in the state alone."""


def exit_with(parent: int) -> None:
    """End this process with its parent, because an engine that is killed stops no plugin."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=exit_with, args=[os.getppid()], daemon=True).start()
    serve(sys.argv[1:], version("pulumi_random"), Random())
