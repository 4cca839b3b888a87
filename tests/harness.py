"""Runs the program under mocks, and keeps every registration: no engine, state or cluster.

The SDK's internal names that are used here are those of pulumi 3.250.0.
"""

import asyncio
import copy
import functools
import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi import Input, Output, ResourceOptions
from pulumi.runtime import mocks, rpc, settings, stack
from pulumi.runtime.config import set_all_config
from pulumi.runtime.proto import resource_pb2

import config
from components import CHART_VALUES, OllamaStack
from config.stack_file import project_keys, read_config

ROOT = Path(__file__).parent.parent
RESERVED = config.requested(CHART_VALUES)
"""Resources that the monitoring chart requests."""
SECRETS = ("notifySecret",)
"""Keys that are set with `pulumi config set --secret`."""


@dataclass(frozen=True)
class Registration:
    """A RegisterResource request."""

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
    """Names of the resources that it depends on."""
    timeouts: Mapping[str, str]
    """Custom timeouts for `create` and `update`, such as `2h`; empty for the default."""


@dataclass
class Deployment:
    """The registrations of one run of a program, by `type::name`."""

    resources: dict[str, Registration]
    outputs: dict[str, Any]
    secret_outputs: frozenset[str]

    def __getitem__(self, key: str) -> Registration:
        return self.resources[key]

    def of_kind(self, kind: str) -> list[Registration]:
        """Return the registrations whose type ends in `:kind`."""
        return [r for r in self.resources.values() if r.type.endswith(f":{kind}")]

    def objects(self) -> list[Registration]:
        """Return the registrations of Kubernetes objects."""
        return [r for r in self.resources.values() if r.inputs.get("apiVersion")]


class _Mocks(mocks.Mocks):
    """Returns the inputs as outputs, with a made-up password for RandomPassword."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.typ == "random:index/randomPassword:RandomPassword":
            secret = Output.secret(f"password of {args.name}")
            return args.name, {**args.inputs, "result": secret}
        return args.name, args.inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise NotImplementedError(f"the program invokes a function: {args.token}")


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
            # The names of project and stack before it depend on earlier runs in this process.
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
        # The SDK also sends an empty request, which may come last.
        if "::pulumi:pulumi:Stack::" in request.urn and len(request.outputs):
            values = rpc.deserialize_properties(request.outputs, keep_unknowns=False)
            self.outputs, paths = _plain(values)
            self.secret_outputs = frozenset(path.partition(".")[0] for path in paths)
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


def _plain(value: Any, path: str = "") -> tuple[Any, list[str]]:
    """Undo the wire format: unwrap secrets, and turn 3.0 into 3; return their paths, too."""
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
    """Return the `homelab:` keys of a stack file, without the prefix.

    Raises SettingsError if there are none to read.
    """
    return copy.deepcopy(_stack_file(stack_name))


@functools.cache
def _stack_file(stack_name: str) -> dict[str, Any]:
    return project_keys(read_config(ROOT / f"Pulumi.{stack_name}.yaml"))


def deploy_program(stack_name: str, config: Mapping[str, Any] | None = None) -> Deployment:
    """Run the program with the configuration of a stack file, or with `config`."""
    keys = stack_config(stack_name) if config is None else config
    wire = {
        f"homelab:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in keys.items()
    }

    def program() -> None:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="__main__")

    return deploy(program, wire, stack_name)


def read(raw: Mapping[str, Any]) -> config.Settings:
    """Return the settings of these keys; raises SettingsError."""
    return config.read(raw, RESERVED, SECRETS)


@functools.cache
def deployed(stack: str = "home") -> Deployment:
    """Return the deployment of a stack file, or of `home` with `gpu`, `backups` or `two servers`.

    It is shared, so do not change it.
    """
    match stack:
        case "gpu":
            return deploy_program("home", gpu_config())
        case "backups":
            return deploy_program("home", backup_config())
        case "two servers":
            return deploy_program("home", two_servers())
    return deploy_program(stack)


def environment(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container's variables, those with `valueFrom` as None."""
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def small_ollama_stack(
    name: str,
    namespace: Input[str],
    claim_name: Input[str],
    models: Sequence[str] = ("m:1b",),
    opts: ResourceOptions | None = None,
) -> OllamaStack:
    """Declare a model server with the smallest arguments that its API takes."""
    return OllamaStack(
        name,
        {
            "namespace": namespace,
            "claim_name": claim_name,
            "pod": {
                "image": "ollama:1.0.0",
                "cpu": 1,
                "memory_request": "1Gi",
                "memory_limit": "1Gi",
            },
            "models": {"declared": [{"name": model} for model in models]},
            "gateway": {"image": "python:1.0.0"},
            "telemetry": {"otlp_url": "", "pod_labels": {}},
            "runtime": {
                "context_length": 8192,
                "parallel": 1,
                "loaded_models": 1,
                "prompt_cache_mib": 512,
                "keep_alive": "30m",
                "backend": {"OLLAMA_LLM_LIBRARY": "cpu"},
            },
        },
        opts,
    )


def gpu_config(stack: str = "home") -> dict[str, Any]:
    """Return a stack's configuration with the profile hx370 and made-up numbers for its GPU."""
    raw = stack_config(stack)
    gpu = {"memory": "46Gi", "groups": [44, 993]}
    raw["nodes"]["evo4t"] |= {"profile": "hx370", "gpu": gpu}
    return raw


def backup_config(stack: str = "home") -> dict[str, Any]:
    """Return a stack's configuration with backups."""
    raw = stack_config(stack)
    raw["webui"]["backup"] = {"volume": {"path": "/mnt/backup/homelab", "size": "200Gi"}}
    return raw


def on_node(raw: dict[str, Any], name: str = "evo4t") -> dict[str, Any]:
    """Set the node of each section that has none, as several nodes need; returns `raw`."""
    for section in ("ollama", "webui", "observability"):
        raw[section].setdefault("node", name)
    return raw


def two_servers(**server: Any) -> dict[str, Any]:
    """Return the stack `home` with a second model server, on a larger node, with these keys."""
    raw = on_node(stack_config("home"))
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
