"""`RandomPassword` for machines that cannot download Pulumi's `random` plugin: one plugin process.

It makes passwords as the official one does, of the properties in `DEFAULTS`, and nothing else.
"""

# The names of the methods are those of the gRPC service.
# ruff: noqa: N802

import os
import secrets
import shlex
import string
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]
from pulumi.runtime.proto import plugin_pb2, provider_pb2
from pulumi.runtime.proto.provider_pb2_grpc import (
    ResourceProviderServicer,
    add_ResourceProviderServicer_to_server,
)

PASSWORD = "random:index/randomPassword:RandomPassword"
# Source of characters and defaults: the `random` provider's documentation of random_password.
CLASSES = {
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "numeric": string.digits,
    "special": "!@#$%&*()-_=+[]{}<>:?",
}
DEFAULTS: dict[str, Any] = {"length": None, **dict.fromkeys(CLASSES, True)}
# What marks a secret in the engine's messages: sdk/go/common/resource/sig in pulumi/pulumi.
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
HEARTBEAT = 0.5
"""Seconds between two looks at the parent process."""
SCRIPT = """\
#!/bin/sh
# Safe path: the engine starts plugins in folders whose modules must not shadow ours.
PYTHONSAFEPATH=1 PYTHONPATH={project} exec {python} -m sandbox.random_provider "$@"
"""


def write_script(file: Path) -> None:
    """Write the executable that the engine starts."""
    project, python = Path(__file__).parent.parent, Path(sys.executable)
    # Not resolved: the link in a virtual environment is what finds its packages.
    words = {"project": project, "python": python.absolute()}
    text = SCRIPT.format(**{name: shlex.quote(str(word)) for name, word in words.items()})
    file.write_text(text)
    file.chmod(0o755)


def settled(struct: Struct) -> dict[str, Any]:
    """Give the inputs with every default."""
    inputs = MessageToDict(struct)
    known = {key: value for key, value in inputs.items() if not key.startswith("__")}
    return {**DEFAULTS, **{key: value for key, value in known.items() if value is not None}}


def problem(inputs: dict[str, Any]) -> tuple[str, str] | None:
    """Name the property of settled `inputs` that no password can have, and why."""
    if unknown := sorted(inputs.keys() - DEFAULTS.keys()):
        return unknown[0], f"not here, where the official plugin is missing: {', '.join(unknown)}"
    if not isinstance(length := inputs["length"], float | int) or length < 1:
        return "length", f"length: got {length}, want a whole number above 0"
    if not any(inputs[name] for name in CLASSES):
        return "special", "one of upper, lower, numeric and special must be true"
    return None


def password(inputs: dict[str, Any]) -> str:
    """Make a password as settled `inputs` describe it, from the system's random source."""
    characters = "".join(pool for name, pool in CLASSES.items() if inputs[name])
    return "".join(secrets.choice(characters) for _ in range(int(inputs["length"])))


class Random(ResourceProviderServicer):
    """Serves `RandomPassword`; every other kind is refused in Check."""

    def Handshake(self, _request: Any, _context: Any) -> provider_pb2.ProviderHandshakeResponse:
        """Say that secrets come as such."""
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    def Attach(self, _request: Any, _context: Any) -> Empty:
        """Take note of another engine; nothing is ever said to it."""
        return Empty()

    def GetPluginInfo(self, _request: Any, _context: Any) -> plugin_pb2.PluginInfo:
        """Report the version of the SDK this stands in for."""
        return plugin_pb2.PluginInfo(version=version("pulumi_random"))

    def GetSchema(self, _request: Any, _context: Any) -> provider_pb2.GetSchemaResponse:
        """Give an empty schema: no code is made from it."""
        return provider_pb2.GetSchemaResponse(schema="{}")

    def CheckConfig(self, request: Any, _context: Any) -> provider_pb2.CheckResponse:
        """Accept the configuration of the provider as it is."""
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, _request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Find no difference in the configuration."""
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, _request: Any, _context: Any) -> provider_pb2.ConfigureResponse:
        """Take previews and secrets."""
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    def Check(self, request: Any, context: Any) -> provider_pb2.CheckResponse:
        """Refuse other kinds, and what no password can have."""
        if request.type != PASSWORD:
            message = f"{request.type}: only RandomPassword, where the official plugin is missing"
            context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
        answer = provider_pb2.CheckResponse(inputs=request.news)
        if found := problem(settled(request.news)):
            answer.failures.add(property=found[0], reason=found[1])
        return answer

    def Diff(self, request: Any, _context: Any) -> provider_pb2.DiffResponse:
        """Replace the password whenever anything about it changes."""
        old, new = settled(request.old_inputs), settled(request.news)
        changed = [key for key in DEFAULTS if old[key] != new[key]]
        kinds = provider_pb2.DiffResponse
        return provider_pb2.DiffResponse(
            changes=kinds.DIFF_SOME if changed else kinds.DIFF_NONE,
            replaces=changed,
            diffs=changed,
        )

    def Create(self, request: Any, _context: Any) -> provider_pb2.CreateResponse:
        """Make a password; nothing in a preview."""
        if request.preview:
            return provider_pb2.CreateResponse(properties=request.properties)
        inputs, state = settled(request.properties), Struct()
        state.update({**inputs, "result": {**SECRET, "value": password(inputs)}})
        return provider_pb2.CreateResponse(id="none", properties=state)

    def Read(self, request: Any, _context: Any) -> provider_pb2.ReadResponse:
        """Hand back the state: a password exists nowhere else."""
        return provider_pb2.ReadResponse(
            id=request.id, properties=request.properties, inputs=request.inputs
        )

    def Delete(self, _request: Any, _context: Any) -> Empty:
        """Forget the password."""
        return Empty()

    def Cancel(self, _request: Any, _context: Any) -> Empty:
        """Do nothing: nothing here takes long."""
        return Empty()


def main() -> None:
    """Serve until the engine that started this process is gone."""
    parent = os.getppid()
    server = grpc.server(ThreadPoolExecutor(8))
    add_ResourceProviderServicer_to_server(Random(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    # An engine killed outright says no goodbye, but it stops being the parent.
    while os.getppid() == parent:
        time.sleep(HEARTBEAT)
    os._exit(0)


if __name__ == "__main__":
    main()
