"""What the owner writes in a stack file, one dataclass per section; imports no Pulumi."""

from dataclasses import dataclass
from ipaddress import IPv4Network

from config import ide, versions
from config.declaration import Model
from config.hosts import PROFILES, Profile
from config.machines import Node
from config.quantities import size
from config.sections import Section
from config.storage import Backup, Volume

TAILNET = IPv4Network("100.64.0.0/10")
"""Where Tailscale takes its addresses from (RFC 6598, shared address space)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Section):
    """The home network, the range MetalLB may use, and who runs MetalLB (`helm` or `addon`)."""

    lan: str
    pool: str
    metallb: str = "helm"

    @property
    def metallb_chart(self) -> str | None:
        """Version of MetalLB to install, or None where MicroK8s' addon runs it."""
        return versions.METALLB if self.metallb == "helm" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Section):
    """Memory that a pod is scheduled with, and at which it is killed."""

    request: str
    limit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama(Section):
    """The model server: what it serves, and how much of the machine it may take.

    `memory` and `loaded_models` are planned where they are not set (config/capacity.py).
    """

    models: list[Model]
    memory: Memory | None = None
    volume: Volume
    image: str = versions.OLLAMA_IMAGE
    cpu: float = 8.0
    context_length: int = 8192
    parallel: int = 1
    kv_cache: str = "f16"
    loaded_models: int | None = None
    prompt_cache: str = "1Gi"
    keep_alive: str = "30m"
    model_sizes: dict[str, str] | None = None
    dry_run: bool = False
    refreshed: str | None = None
    node: str | None = None

    @property
    def names(self) -> list[str]:
        """The models' names, the default one first."""
        return [model.name for model in self.models]

    def named(self, name: str) -> Model:
        """What is declared of a model; of one that is not in the list, its name."""
        return next((one for one in self.models if one.name == name), Model(name=name))

    @property
    def loaded_at_once(self) -> int:
        """How many models the Job loads: the first, and each that is to stay loaded."""
        return len({*self.names[:1], *(one.name for one in self.models if one.keep_alive)})

    @property
    def prompt_cache_mib(self) -> int:
        """The prompt cache of one loaded model in MiB, as llama.cpp takes it."""
        return size(self.prompt_cache) // 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class WebUI(Section):
    """The chat page: where it is reached, who runs it, and what helps it along."""

    volume: Volume
    memory: Memory
    admin_email: str
    lan_address: str | None = None
    tailnet_address: str | None = None
    origins: list[str] | None = None
    trusted_email_header: str | None = None
    embedding_model: str = "nomic-embed-text:v1.5"
    task_model: str | None = None
    image: str = versions.OPEN_WEBUI_IMAGE
    cpu: float = 0.5
    node: str | None = None
    backup: Backup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observability(Section):
    """Prometheus and Grafana: the address of the dashboards and the room for the history."""

    lan_address: str
    volume: Volume
    chart_version: str = versions.KUBE_PROMETHEUS_STACK
    label_users: bool = False
    runbook: str = "docs/runbook.md"
    node: str | None = None

    @property
    def retention_size(self) -> str:
        """How much history Prometheus keeps: 80 % of its volume.

        The limit leaves out the write-ahead log and the block being written.
        """
        return f"{size(self.volume.size) * 8 // 10 // 1024**2}MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Section):
    """One house: every key of a stack file under `homelab:`."""

    context: str
    nodes: dict[str, Node]
    network: Network
    ollama: Ollama
    webui: WebUI
    observability: Observability
    protect: bool = True

    @property
    def model_set(self) -> list[str]:
        """The models to chat with and the one that reads documents, each once."""
        return list(dict.fromkeys([*self.ollama.names, self.webui.embedding_model]))

    @property
    def completion_model(self) -> str | None:
        """The model that completes code in an editor; None where no editor reaches the page."""
        is_reached = self.webui.lan_address or self.webui.tailnet_address
        return ide.completion_model(self.ollama.names) if is_reached else None

    @property
    def model_digests(self) -> dict[str, str]:
        """The digests that were declared, by model."""
        return {model.name: model.digest for model in self.ollama.models if model.digest}

    @property
    def pods(self) -> dict[str, Ollama | WebUI]:
        """The sections that are one pod with an image of its own, by key."""
        return {"ollama": self.ollama, "webui": self.webui}

    @property
    def images(self) -> dict[str, str]:
        """Every image that the owner may name, by key."""
        backup = self.webui.backup
        return {
            **{f"{key}.image": pod.image for key, pod in self.pods.items()},
            **({"webui.backup.image": backup.image} if backup else {}),
        }

    @property
    def parts(self) -> dict[str, Ollama | WebUI | Observability]:
        """The sections that run on a node and keep data there, by key."""
        return {**self.pods, "observability": self.observability}

    @property
    def reached_from(self) -> list[str]:
        """CIDRs that may open the chat page.

        Callers from the tailnet may appear with their own address or with the node's.
        """
        lan = [self.network.lan] if self.webui.lan_address else []
        tailnet = [str(TAILNET)] if self.webui.tailnet_address else []
        return [*lan, *tailnet, *(f"{node.address}/32" for node in self.nodes.values())]

    @property
    def memory_bandwidth(self) -> float:
        """Bytes/s of the memory that models run in; 0 where the owner has not said."""
        return (self.node_of_models.memory_bandwidth or 0) * 1e9

    @property
    def node_of_models(self) -> Node:
        """The machine that models run on."""
        return self.nodes[self.node_of(self.ollama)]

    @property
    def profile(self) -> Profile:
        """How models run on that machine."""
        return PROFILES[self.node_of_models.profile]

    @property
    def gpu_memory(self) -> int | None:
        """Bytes that models may fill on the GPU, which are not more memory but a part of it.

        None where they run on the processor.
        """
        gpu = self.node_of_models.gpu if self.profile.device else None
        overhead = int(self.profile.environment.get("OLLAMA_GPU_OVERHEAD", 0))
        return size(gpu.memory) - overhead if gpu else None

    @property
    def gpu_groups(self) -> list[int]:
        """Group numbers that the model server needs to open the GPU; none on the processor."""
        gpu = self.node_of_models.gpu if self.profile.device else None
        return gpu.groups if gpu else []

    def node_of(self, part: Ollama | WebUI | Observability) -> str:
        """The node that a part runs on: the one it names, or the first."""
        return part.node or next(iter(self.nodes))
