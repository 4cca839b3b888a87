"""The model server behind its gateway, the way to it, and the Job that gives it its models."""

from typing import Any, NotRequired, TypedDict

from pulumi import ComponentResource, CustomTimeouts, Input, Output, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import ContainerArgsDict, ProbeArgsDict, VolumeArgsDict

from components._kubernetes import (
    DNS,
    INTERNET,
    NOWHERE,
    RESTRICTED,
    SLOW_PULL,
    Pod,
    Telemetry,
    environment,
    from_pods,
    labels,
    otel_service,
    pod,
    policy,
    resources,
    selector,
    service,
    to_pods,
    volume,
)
from components.ollama.gateway import PORT, TERMINATION, Gateway
from components.ollama.model_job import ModelJobArgs, model_job

SERVER = "127.0.0.1:11435"
"""Where Ollama listens: inside its pod only, so that nothing gets around the gateway."""


class OllamaRuntime(TypedDict):
    """How Ollama serves models."""

    context_length: int
    """Tokens of context for each request."""
    parallel: int
    """Requests that one model answers at once; each has a context of its own."""
    loaded_models: int
    """Models in memory at once; without a GPU nothing else bounds it."""
    kv_cache: NotRequired[str]
    """How the context is kept: `f16`, `q8_0` or `q4_0`. Default: `f16`."""
    prompt_cache_mib: int
    """MiB of old prompts that each loaded model keeps, beside its context."""
    keep_alive: str
    """How long a model stays loaded without a request, such as `30m`; `-1` is for ever."""
    backend: dict[str, str]
    """Variables of Ollama that choose where models run, such as `OLLAMA_LLM_LIBRARY`."""
    device: NotRequired[str | None]
    """Resource of the device plugin that hands a GPU to the pod. Default: none."""
    device_groups: NotRequired[list[int]]
    """The node's group numbers that may open that device. Default: none."""


class OllamaModels(TypedDict):
    """Which models the server has."""

    declared: list[dict[str, Any]]
    """Models to have, as `DeclaredModel` of `programs/sync_models.py` takes them; a changed list
    is a new Job."""
    refreshed: NotRequired[str | None]
    """Another word than at the last run pulls every declared tag again. Default: none."""
    dry_run: NotRequired[bool]
    """Whether the Job only says what it would do. Default: false."""


class OllamaGateway(TypedDict):
    """What stands between Ollama and its users."""

    image: str
    """Image with Python 3.11, aiohttp and the OpenTelemetry SDK, pinned; the Job runs on it too."""
    memory_bandwidth: NotRequired[float]
    """Bytes/s of the node's memory, which bound tokens/s. Default: unknown."""
    read_bytes: NotRequired[dict[str, float]]
    """Bytes that a model reads for each token, where that is not all of its file. Default: none."""
    label_users: NotRequired[bool]
    """Whether tokens are counted by user, under a pseudonym. Default: false."""


class OllamaStackArgs(TypedDict):
    """Inputs of an `OllamaStack`."""

    namespace: Input[str]
    """Namespace to run in; its pods are cut off but for what this component opens."""
    claim_name: Input[str]
    """Claim of the volume that keeps the models."""
    pod: Pod
    runtime: OllamaRuntime
    models: OllamaModels
    gateway: OllamaGateway
    model_name: str
    """Text of the module `model_name`, by which the programs compare models' names."""
    telemetry: NotRequired[Telemetry]
    """Default: nothing is pushed."""


class OllamaStack(ComponentResource):
    """Ollama behind a cluster-internal Service, with the declared models pulled."""

    url: Output[str]
    """Where pods that carry `client_labels` reach the server."""
    client_labels: dict[str, str]
    """Pod labels that open the way to the server."""

    def __init__(
        self, name: str, args: OllamaStackArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:OllamaStack", name, {}, opts)
        namespace = args["namespace"]
        client = self.client_labels = {f"homelab/{name}-client": "true"}

        policy(f"{name}-default-deny", namespace, {}, self, ingress=[], egress=[])
        policy(
            name,
            namespace,
            selector(name),
            self,
            ingress=[from_pods(client, PORT)],
            egress=[DNS, INTERNET],
        )
        policy(
            f"{name}-clients",
            namespace,
            client,
            self,
            egress=[DNS, to_pods(selector(name), PORT)],
        )

        label = f"{name}-service"
        made = service(label, label, namespace, selector(name), (PORT, "http"), self)
        self.url = Output.concat(
            "http://", made.metadata["name"], ".", made.metadata["namespace"], f":{PORT}"
        )

        runtime, node = args["runtime"], args["pod"].get("node")
        telemetry = args.get("telemetry", NOWHERE)
        gateway = Gateway(name, namespace, args["model_name"], self)
        scratch: VolumeArgsDict = {"name": "tmp", "empty_dir": {"size_limit": "1Gi"}}
        server = Deployment(
            f"{name}-deployment",
            metadata={"name": name, "namespace": namespace, "labels": labels(name)},
            spec={
                "replicas": 1,
                # Two servers would not fit in memory, nor share the volume.
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": selector(name)},
                "template": {
                    "metadata": {
                        "labels": {**labels(name), **telemetry["pod_labels"]},
                        "annotations": gateway.annotations,
                    },
                    "spec": {
                        **pod(
                            gateway.container(
                                args["gateway"]["image"],
                                SERVER,
                                _metrics(name, args["gateway"], telemetry, namespace),
                            ),
                            [volume("models", args["claim_name"]), scratch, gateway.volume],
                            node,
                            # It cuts running answers when told to stop: the gateway's end first.
                            server=_server(args["pod"], runtime),
                            groups=runtime.get("device_groups", ()),
                        ),
                        "termination_grace_period_seconds": TERMINATION,
                    },
                },
            },
            opts=ResourceOptions(
                parent=self, custom_timeouts=CustomTimeouts(create=SLOW_PULL, update=SLOW_PULL)
            ),
        )
        token = gateway.token("PULL_TOKEN")
        job: ModelJobArgs = {
            "namespace": namespace,
            "claim_name": args["claim_name"],
            "image": args["gateway"]["image"],
            "node": node,
            "model_name": args["model_name"],
            **args["models"],
        }
        model_job(name, job, self.url, token, client, server, self)

        self.register_outputs({"url": self.url})


def _server(of: Pod, runtime: OllamaRuntime) -> ContainerArgsDict:
    """The container that serves; its settings are explicit wherever Ollama would guess."""
    # Nobody but the pod reaches it, so it asks itself.
    probe: ProbeArgsDict = {"exec_": {"command": ["ollama", "ls"]}, "timeout_seconds": 10}
    kv_cache = runtime.get("kv_cache", "f16")
    settings = {
        "HOME": "/data",
        "OLLAMA_MODELS": "/data/models",
        "OLLAMA_HOST": SERVER,
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_CONTEXT_LENGTH": str(runtime["context_length"]),
        "OLLAMA_NUM_PARALLEL": str(runtime["parallel"]),
        "OLLAMA_MAX_LOADED_MODELS": str(runtime["loaded_models"]),
        "OLLAMA_KV_CACHE_TYPE": kv_cache,
        # A smaller one is not used without; else Ollama knows better.
        **({} if kv_cache == "f16" else {"OLLAMA_FLASH_ATTENTION": "1"}),
        # Ollama's own; each document that is being read is up to four requests.
        "OLLAMA_MAX_QUEUE": "512",
        "OLLAMA_KEEP_ALIVE": runtime["keep_alive"],
        # Seconds without progress, not in all: a large model from a cold disk.
        "OLLAMA_LOAD_TIMEOUT": "10m",
        "LLAMA_ARG_CACHE_RAM": str(runtime["prompt_cache_mib"]),
        **runtime["backend"],
    }
    return {
        "name": "ollama",
        "image": of["image"],
        "env": environment(settings),
        # The port is open long before it answers: libraries are probed for up to 30 s each.
        "startup_probe": {**probe, "period_seconds": 5, "failure_threshold": 36},
        "liveness_probe": {**probe, "period_seconds": 30, "failure_threshold": 4},
        "resources": resources(of, runtime.get("device")),
        "security_context": RESTRICTED,
        "volume_mounts": [
            {"name": "models", "mount_path": "/data"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


def _metrics(
    name: str, gateway: OllamaGateway, telemetry: Telemetry, namespace: Input[str]
) -> dict[str, Input[str]]:
    """Environment by which the gateway measures, and pushes what it has measured."""
    reads = ",".join(f"{model}={size:g}" for model, size in gateway.get("read_bytes", {}).items())
    return {
        "GATEWAY_OTLP_URL": telemetry["otlp_url"],
        "GATEWAY_BANDWIDTH": f"{gateway.get('memory_bandwidth', 0):g}",
        "GATEWAY_READ_BYTES": reads,
        "GATEWAY_USER_LABEL": "on" if gateway.get("label_users") else "off",
        **otel_service("ollama-gateway", namespace, name),
    }
