"""The model server, the way to it, and the Job that gives it its models."""

import hashlib

from pulumi import ComponentResource, CustomTimeouts, Output, ResourceOptions
from pulumi_kubernetes.apps.v1 import Deployment
from pulumi_kubernetes.batch.v1 import Job
from pulumi_kubernetes.core.v1 import (
    ConfigMap,
    ContainerArgsDict,
    ProbeArgsDict,
    VolumeArgsDict,
)

from components._network import DNS, INTERNET, from_pods, policy, service, to_pods
from components._objects import (
    RESTRICTED,
    PodArgs,
    environment,
    labels,
    pod,
    resources,
    selector,
    volume,
)

PORT = 11434
CLIENT = {"homelab/ollama-client": "true"}


class OllamaStackArgs(PodArgs):
    """What the model server needs to know."""

    models: list[str]
    """Models to have, as `family:tag`; a changed list is a new Job."""
    job_image: str
    """An image with Python 3.11 or newer that the node has anyway, for the model Job."""
    job_program: str
    """Text of the program that pulls the models given as its arguments."""
    context_length: int
    """Tokens of context for each request."""
    parallel: int
    """Requests that one model answers at once; each has a context of its own."""
    loaded_models: int
    """Models in memory at once; without a GPU nothing else bounds it."""
    prompt_cache_mib: int
    """MiB of old prompts that each loaded model keeps, beside its context."""
    keep_alive: str
    """How long a model stays loaded without a request, such as `30m`; `-1` is for ever."""


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
        child = ResourceOptions(parent=self)
        self.client_labels = CLIENT

        policy(f"{name}-default-deny", namespace, {}, self, ingress=[], egress=[])
        policy(
            name,
            namespace,
            selector(name),
            self,
            ingress=[from_pods(CLIENT, PORT)],
            egress=[DNS, INTERNET],
        )
        policy(
            f"{name}-clients",
            namespace,
            CLIENT,
            self,
            egress=[DNS, to_pods(selector(name), PORT)],
        )

        label = f"{name}-service"
        made = service(label, label, namespace, selector(name), (PORT, "http"), self)
        self.url = Output.concat(
            "http://", made.metadata["name"], ".", made.metadata["namespace"], f":{PORT}"
        )

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
                    "metadata": {"labels": labels(name)},
                    "spec": {
                        **pod(
                            _server(args),
                            [volume("models", args["claim_name"]), scratch],
                            args.get("node"),
                        ),
                        "termination_grace_period_seconds": 60,
                    },
                },
            },
            # The image is 3.8 GB; a first pull at home may take longer than the usual 10 minutes.
            opts=ResourceOptions(
                parent=self, custom_timeouts=CustomTimeouts(create="30m", update="30m")
            ),
        )

        program = ConfigMap(
            f"{name}-program",
            metadata={"name": f"{name}-model-job", "namespace": namespace, "labels": labels(name)},
            data={"pull_models.py": args["job_program"]},
            opts=child,
        )
        script: VolumeArgsDict = {
            "name": "program",
            "config_map": {"name": program.metadata["name"]},
        }
        job = f"{name}-models"
        Job(
            f"{name}-job",
            metadata={
                "name": f"{job}-{_fingerprint(args)}",
                "namespace": namespace,
                "labels": labels(job),
                # A Job that failed runs again on the next up, when the model's name is mended.
                "annotations": {"pulumi.com/replaceUnready": "true"},
            },
            spec={
                # The program tries each model several times itself.
                "backoff_limit": 1,
                "template": {
                    "metadata": {"labels": {**labels(job), **CLIENT}},
                    "spec": {
                        **pod(_job(args, self.url), [script], args.get("node")),
                        "restart_policy": "Never",
                    },
                },
            },
            # Models of 65 GB take hours on a home line; the log tells how far it is.
            opts=ResourceOptions(
                parent=self, depends_on=[server], custom_timeouts=CustomTimeouts(create="4h")
            ),
        )

        self.register_outputs({"url": self.url})


def _server(args: OllamaStackArgs) -> ContainerArgsDict:
    """The container that serves; its settings are explicit wherever Ollama would guess."""
    probe: ProbeArgsDict = {"http_get": {"path": "/", "port": "http"}, "timeout_seconds": 5}
    settings = {
        "HOME": "/data",
        "OLLAMA_MODELS": "/data/models",
        "OLLAMA_HOST": f"0.0.0.0:{PORT}",
        # No such library, so it looks for no GPU: starts at once, and never falls back silently.
        "OLLAMA_LLM_LIBRARY": "cpu",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_CONTEXT_LENGTH": str(args["context_length"]),
        "OLLAMA_NUM_PARALLEL": str(args["parallel"]),
        "OLLAMA_MAX_LOADED_MODELS": str(args["loaded_models"]),
        "OLLAMA_MAX_QUEUE": "64",
        "OLLAMA_KEEP_ALIVE": args["keep_alive"],
        # Seconds without progress, not in all: a large model from a cold disk.
        "OLLAMA_LOAD_TIMEOUT": "10m",
        "LLAMA_ARG_CACHE_RAM": str(args["prompt_cache_mib"]),
    }
    return {
        "name": "ollama",
        "image": args["image"],
        "env": environment(settings),
        "ports": [{"name": "http", "container_port": PORT}],
        # The port is open long before it answers: libraries are probed for up to 30 s each.
        "startup_probe": {**probe, "period_seconds": 5, "failure_threshold": 36},
        "readiness_probe": {**probe, "period_seconds": 10},
        "liveness_probe": {**probe, "period_seconds": 30, "failure_threshold": 4},
        # The server cuts running answers when told to stop; new ones stop coming first.
        "lifecycle": {"pre_stop": {"sleep": {"seconds": 10}}},
        "resources": resources(args),
        "security_context": RESTRICTED,
        "volume_mounts": [
            {"name": "models", "mount_path": "/data"},
            {"name": "tmp", "mount_path": "/tmp"},
        ],
    }


def _job(args: OllamaStackArgs, url: Output[str]) -> ContainerArgsDict:
    """The container that pulls the models through the server's API."""
    return {
        "name": "pull-models",
        "image": args["job_image"],
        "command": ["python3", "-u", "/workload/pull_models.py"],
        "args": sorted(args["models"]),
        "env": environment({"OLLAMA_URL": url}),
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "security_context": RESTRICTED,
        "volume_mounts": [{"name": "program", "mount_path": "/workload", "read_only": True}],
    }


def _fingerprint(args: OllamaStackArgs) -> str:
    """Eight hex digits that change with the models and the program, and with nothing else."""
    text = "\n".join([*sorted(args["models"]), args["job_program"]])
    return hashlib.sha256(text.encode()).hexdigest()[:8]
