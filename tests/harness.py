"""The program run in this process, with every registration kept: no engine, no state, no cluster.

All use of the SDK's half-internal names is here; they were read from pulumi 3.250.0.
"""

import asyncio
import functools
import json
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi import Output
from pulumi.runtime import mocks, rpc, settings, stack
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import resource_pb2

import config
from components import CHART_VALUES
from config.stack_file import project_keys, read_config

ROOT = Path(__file__).parent.parent
RESERVED = config.requested(CHART_VALUES)
"""What the monitoring requests beside the settings."""
SECRETS = ("notifySecret",)
"""Keys that `pulumi config set --secret` has set."""


@dataclass(frozen=True)
class Registration:
    """What the program asked the engine for."""

    type: str
    name: str
    parent: str
    provider: str
    protect: bool
    inputs: dict[str, Any]
    """Plain values; secrets are unwrapped."""
    secrets: frozenset[str]
    """Dotted paths of the inputs that were secret."""
    dependencies: frozenset[str]
    """Names of the resources it waits for."""
    timeouts: Mapping[str, str]
    """How long the engine waits to `create` and `update` it, such as `2h`; empty: its default."""


@dataclass
class Deployment:
    """Everything one run of a program registered, by `type::name`."""

    resources: dict[str, Registration]
    outputs: dict[str, Any]
    secret_outputs: frozenset[str]

    def __getitem__(self, key: str) -> Registration:
        return self.resources[key]

    def of_kind(self, kind: str) -> list[Registration]:
        """The registrations whose type ends in `:kind`."""
        return [r for r in self.resources.values() if r.type.endswith(f":{kind}")]

    def objects(self) -> list[Registration]:
        """The registrations that are objects of the Kubernetes API."""
        return [r for r in self.resources.values() if r.inputs.get("apiVersion")]


class _Mocks(mocks.Mocks):
    """Echo inputs; invent only what a provider alone can know."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.typ == "random:index/randomPassword:RandomPassword":
            secret = Output.secret(f"password of {args.name}")
            return args.name, {**args.inputs, "result": secret}
        return args.name, args.inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise NotImplementedError(f"the program asked the outside: {args.token}")


class _Monitor(mocks.MockMonitor):
    def __init__(self) -> None:
        super().__init__(_Mocks())
        self.kept: dict[str, Registration] = {}
        self.outputs: dict[str, Any] = {}
        self.secret_outputs: frozenset[str] = frozenset()

    def RegisterResource(self, request: resource_pb2.RegisterResourceRequest) -> Any:  # noqa: N802
        if request.type == "pulumi:pulumi:Stack":
            return super().RegisterResource(request)  # type: ignore[no-untyped-call]
        inputs, secrets = _plain(rpc.deserialize_properties(request.object, keep_unknowns=False))
        key = f"{request.type}::{request.name}"
        if key in self.kept:
            raise ValueError(f"registered twice: {key}")
        self.kept[key] = Registration(
            type=request.type,
            name=request.name,
            parent=request.parent.rpartition("::")[2],
            # Less the names of project and stack, which a run of the real engine leaves behind.
            provider=request.provider.rpartition("$")[2],
            protect=request.protect,
            inputs=inputs,
            secrets=frozenset(secrets),
            dependencies=frozenset(urn.rpartition("::")[2] for urn in request.dependencies),
            timeouts={
                "create": request.customTimeouts.create,
                "update": request.customTimeouts.update,
            },
        )
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802
        # The SDK sends an empty one besides, which may come last.
        if "::pulumi:pulumi:Stack::" in request.urn and len(request.outputs):
            values = rpc.deserialize_properties(request.outputs, keep_unknowns=False)
            self.outputs, paths = _plain(values)
            self.secret_outputs = frozenset(path.partition(".")[0] for path in paths)
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


def _plain(value: Any, path: str = "") -> tuple[Any, list[str]]:
    """Undo the wire format: unwrap secrets, and turn 3.0 back into 3."""
    if rpc.is_rpc_secret(value):
        inner, paths = _plain(rpc.unwrap_rpc_secret(value), path)
        return inner, [path, *paths]
    if isinstance(value, Mapping):
        pairs = {k: _plain(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
        return {k: v for k, (v, _) in pairs.items()}, [p for _, ps in pairs.values() for p in ps]
    if isinstance(value, list):
        items = [_plain(v, f"{path}[{index}]") for index, v in enumerate(value)]
        return [v for v, _ in items], [p for _, ps in items for p in ps]
    if isinstance(value, float) and value.is_integer():
        return int(value), []
    return value, []


def deploy(
    body: Callable[[], None], config: Mapping[str, str] | None = None, stack_name: str = "test"
) -> Deployment:
    """Run `body` as a Pulumi program with this configuration."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    monitor = _Monitor()
    set_all_config(dict(config or {}), [f"homelab:{key}" for key in SECRETS])
    mocks.set_mocks(_Mocks(), project="homelab", stack=stack_name, monitor=monitor)
    settings.set_root_resource(None)  # type: ignore[arg-type]
    try:
        loop.run_until_complete(stack.run_in_stack(body))
    finally:
        loop.close()
    return Deployment(monitor.kept, monitor.outputs, monitor.secret_outputs)


def stack_config(stack_name: str) -> dict[str, Any]:
    """The `homelab:` keys of a stack file, without the prefix.

    Raises SettingsError if there are none to read.
    """
    return project_keys(read_config(ROOT / f"Pulumi.{stack_name}.yaml"))


def deploy_program(stack_name: str, config: Mapping[str, Any] | None = None) -> Deployment:
    """Run the whole program with the configuration of a stack file, or with the one given."""
    wanted = stack_config(stack_name) if config is None else config
    wire = {
        f"homelab:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in wanted.items()
    }

    def program() -> None:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")

    return deploy(program, wire, stack_name)


def read(raw: Mapping[str, Any]) -> config.Settings:
    """The settings of a stack with these keys; raises SettingsError."""
    return config.read(raw, RESERVED, SECRETS)


@functools.cache
def deployed(stack: str = "home") -> Deployment:
    """What the program registers with a stack file as it is: made once, for all that only look."""
    return deploy_program(stack)


def gpu_config(stack: str = "home") -> dict[str, Any]:
    """A stack's configuration with its models on the GPU of an HX 370; the numbers are made up."""
    raw = stack_config(stack)
    gpu = {"memory": "46Gi", "groups": [44, 993]}
    raw["nodes"]["evo4t"] |= {"profile": "hx370", "gpu": gpu}
    return raw


def backup_config(stack: str = "home") -> dict[str, Any]:
    """A stack's configuration with backups."""
    raw = stack_config(stack)
    raw["webui"]["backup"] = {"volume": {"path": "/mnt/backup/homelab", "size": "200Gi"}}
    return raw


def two_servers(**server: Any) -> dict[str, Any]:
    """The home stack with a second model server on a larger node, which has these keys too."""
    raw = stack_config("home")
    raw["nodes"]["big"] = {
        "address": "192.168.1.99",
        "cpus": 32,
        "memory": "125Gi",
        "memory_bandwidth": 256,
        "disk": {"path": "/mnt/big", "size": "900Gi"},
    }
    raw["servers"] = {
        "big": {
            "node": "big",
            "volume": {"path": "/mnt/big/models", "size": "600Gi"},
            "models": ["llama3.3:70b", "llama3.2:3b"],
            **server,
        }
    }
    return raw
