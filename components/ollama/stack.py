"""Ollama behind its gateway, with its Service, network policies and model Job."""

from typing import NotRequired, TypedDict

from pulumi import ComponentResource, CustomTimeouts, Input, Output, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.core.v1 import ContainerArgsDict, ProbeArgsDict, VolumeArgsDict

from components._kubernetes import (
    DNS,
    INTERNET,
    RESTRICTED,
    SLOW_PULL,
    Pod,
    Telemetry,
    environment,
    from_pods,
    labels,
    otel_service,
    pod_spec,
    policy,
    resources,
    selector,
    service,
    to_pods,
    volume,
)
from components.ollama.gateway import PORT, TERMINATION, Gateway
from components.ollama.model_job import ModelJobArgs, OllamaModels, model_job

ADDRESS = "127.0.0.1:11435"
"""Ollama's address: reachable inside its pod only, so that clients cannot bypass the gateway."""


class OllamaRuntime(TypedDict):
    """How Ollama runs models."""

    context_length: int
    """Context length of each request, in tokens."""
    parallel: int
    """Requests that a model answers at the same time; each has its own context."""
    loaded_models: int
    """Maximum of models loaded at once; without a GPU, Ollama has no other limit."""
    kv_cache: NotRequired[str]
    """Type of the KV cache: `f16`, `q8_0` or `q4_0`. Default: `f16`."""
    prompt_cache_mib: int
    """Memory for cached prompts of each loaded model, in MiB."""
    keep_alive: str
    """How long an unused model stays loaded, such as `30m`; `-1` for ever."""
    backend: dict[str, str]
    """Environment variables that select Ollama's library, such as `OLLAMA_LLM_LIBRARY`."""
    device: NotRequired[str | None]
    """Extended resource of a GPU's device plugin. Default: none."""
    device_groups: NotRequired[list[int]]
    """IDs of the node's groups that may open the device. Default: none."""


class OllamaGateway(TypedDict):
    """Inputs of the gateway."""

    image: str
    """Image with Python 3.11, aiohttp, uvloop and OpenTelemetry's SDK; the Job uses it too."""
    memory_bandwidth: NotRequired[float]
    """Memory bandwidth of the node in bytes/s, an upper bound of tokens/s. Default: unknown."""
    read_bytes: NotRequired[dict[str, float]]
    """Bytes read for each token, by model, where less than the model's size. Default: none."""
    label_users: NotRequired[bool]
    """Count tokens for each user, under a pseudonym. Default: false."""


class OllamaStackArgs(TypedDict):
    """Inputs of an `OllamaStack`."""

    namespace: Input[str]
    """Namespace to run in; a default-deny network policy applies to all its pods."""
    claim_name: Input[str]
    """Claim of the models' volume."""
    pod: Pod
    runtime: OllamaRuntime
    models: OllamaModels
    gateway: OllamaGateway
    telemetry: Telemetry


class OllamaStack(ComponentResource):
    """Ollama behind its gateway and a ClusterIP Service, with the declared models."""

    url: Output[str]
    """URL of Ollama's API for pods with `client_labels`."""
    client_labels: dict[str, str]
    """Labels by which network policies allow a pod to reach `url`."""

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
        api = service(label, label, namespace, selector(name), (PORT, "http"), self)
        self.url = Output.concat(
            "http://", api.metadata["name"], ".", api.metadata["namespace"], f":{PORT}"
        )

        runtime, node = args["runtime"], args["pod"].get("node")
        telemetry = args["telemetry"]
        gateway = Gateway(name, namespace, self)
        scratch: VolumeArgsDict = {"name": "tmp", "empty_dir": {"size_limit": "1Gi"}}
        deployment = Deployment(
            f"{name}-deployment",
            metadata={"name": name, "namespace": namespace, "labels": labels(name)},
            spec={
                "replicas": 1,
                # Two pods would not fit in memory.
                "strategy": {"type": "Recreate"},
                "selector": {"match_labels": selector(name)},
                "template": {
                    "metadata": {
                        "labels": {**labels(name), **telemetry["pod_labels"]},
                        "annotations": gateway.annotations,
                    },
                    "spec": {
                        **pod_spec(
                            gateway.container(
                                args["gateway"]["image"],
                                ADDRESS,
                                _metrics(name, args["gateway"], telemetry, namespace),
                            ),
                            [volume("models", args["claim_name"]), scratch, gateway.volume],
                            node,
                            # Ollama drops streams on SIGTERM, so the gateway drains them first.
                            sidecar=_container(args["pod"], runtime),
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
        job: ModelJobArgs = {
            "namespace": namespace,
            "claim_name": args["claim_name"],
            "image": args["gateway"]["image"],
            "node": node,
            **args["models"],
        }
        token = gateway.token("MANAGE_TOKEN")
        model_job(name, job, self.url, token, client, deployment, self)

        self.register_outputs({"url": self.url})


def _container(pod: Pod, runtime: OllamaRuntime) -> ContainerArgsDict:
    """Return Ollama's container; every setting that Ollama would derive from its host is set."""
    # By exec, because the kubelet cannot reach a port on the pod's loopback interface.
    probe: ProbeArgsDict = {"exec_": {"command": ["ollama", "ls"]}, "timeout_seconds": 10}
    kv_cache = runtime.get("kv_cache", "f16")
    settings = {
        "HOME": "/data",
        "OLLAMA_MODELS": "/data/models",
        "OLLAMA_HOST": ADDRESS,
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_CONTEXT_LENGTH": str(runtime["context_length"]),
        "OLLAMA_NUM_PARALLEL": str(runtime["parallel"]),
        "OLLAMA_MAX_LOADED_MODELS": str(runtime["loaded_models"]),
        "OLLAMA_KV_CACHE_TYPE": kv_cache,
        # A quantized KV cache requires flash attention; otherwise Ollama chooses by model.
        **({} if kv_cache == "f16" else {"OLLAMA_FLASH_ATTENTION": "1"}),
        # Ollama's default; embedding a document takes up to four requests at once.
        "OLLAMA_MAX_QUEUE": "512",
        "OLLAMA_KEEP_ALIVE": runtime["keep_alive"],
        # Time without progress, for a large model on a slow disk.
        "OLLAMA_LOAD_TIMEOUT": "10m",
        "LLAMA_ARG_CACHE_RAM": str(runtime["prompt_cache_mib"]),
        **runtime["backend"],
    }
    return {
        "name": "ollama",
        "image": pod["image"],
        "env": environment(settings),
        # The port opens long before Ollama answers: GPU discovery takes up to 30 s a library.
        "startup_probe": {**probe, "period_seconds": 5, "failure_threshold": 36},
        "liveness_probe": {**probe, "period_seconds": 30, "failure_threshold": 4},
        "resources": resources(pod, runtime.get("device")),
        "security_context": RESTRICTED,
        "volume_mounts": [
            {"name": "models", "mount_path": "/data"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


def _metrics(
    name: str, gateway: OllamaGateway, telemetry: Telemetry, namespace: Input[str]
) -> dict[str, Input[str]]:
    """Return the gateway's environment for metrics."""
    read_bytes = gateway.get("read_bytes", {})
    return {
        "GATEWAY_OTLP_URL": telemetry["otlp_url"],
        "GATEWAY_BANDWIDTH": f"{gateway.get('memory_bandwidth', 0):g}",
        "GATEWAY_READ_BYTES": ",".join(f"{model}={size:g}" for model, size in read_bytes.items()),
        "GATEWAY_USER_LABEL": "on" if gateway.get("label_users") else "off",
        **otel_service("ollama-gateway", namespace, name),
    }
