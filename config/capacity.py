"""Capacity plan: memory, GPU memory and disk that the models and other pods need."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from config.catalogue import Shape, find
from config.model_name import canonical
from config.quantities import size
from config.settings import Memory, Model, Observability, Ollama, Settings, WebUI


class Request(NamedTuple):
    """Resource requests on a node: cores, and bytes of memory."""

    cpu: float
    memory: int

    def plus(self, other: "Request") -> "Request":
        """Return the sum of both."""
        return Request(self.cpu + other.cpu, self.memory + other.memory)


GIB = 1024**3
SYSTEM_RESERVE = Request(1.0, 4 * GIB)
"""Reserved on each node for the system, Kubernetes, the gateway and short Jobs: MicroK8s' kubelet
reserves nothing, and evicts pods only when 100 MiB are left."""

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of a number in the KV cache by `ollama.kv_cache`; a block of 32 has a 2-byte scale."""

BATCH = 512
"""Tokens of a prompt that llama.cpp processes at once."""
MIN_COMPUTE = 3 * GIB // 10
"""Bytes of the smallest compute buffers; 0.3 to 2 GiB have been reported."""
GPU_BATCH = 2 * GIB
"""Bytes that Ollama adds for a larger batch if the GPU has enough memory."""

MAX_LOADED = 3
"""Default maximum of models loaded at once, as in Ollama."""
ESTIMATE_ERROR = 0.15
"""Share of the request by which the limit is above it, because the plan is an estimate."""
OLLAMA_OVERHEAD = 2 * GIB
"""Memory of Ollama's own process, added to the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """Memory of one loaded model with its context, in bytes."""

    name: str
    shape: Shape
    weights: str
    """Canonical name of the model whose files it loads: of a variant, its base."""
    context: int
    """Tokens of each request: no more than the model was trained on."""
    kv: int
    """KV cache of all parallel requests."""
    compute: int
    """Compute buffers of llama.cpp."""
    prompt_cache: int
    ceiling: float | None
    """Upper bound of tokens/s, from the memory bandwidth with an empty context; None if unknown."""

    @property
    def device_memory(self) -> int:
        """Weights, KV cache and compute buffers: on the GPU, if there is one."""
        return self.shape.size + self.kv + self.compute

    @property
    def total(self) -> int:
        """All of its memory."""
        return self.device_memory + self.prompt_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Memory of a server's models, and the resources that follow."""

    models: tuple[ModelPlan, ...]
    """The models in the order of the stack file; the embedding model is the last."""
    loaded_models: int
    memory: Memory
    needed: int
    """Bytes of the models loaded at once, `resident`."""
    available: int
    """Bytes of its node's memory that other requests leave for it."""
    on_gpu: int
    """Bytes of the models loaded at once that are on the GPU."""

    @property
    def resident(self) -> list[ModelPlan]:
        """The models loaded at once in the worst case: the largest, the same weights once."""
        return _largest(self.models, self.loaded_models)

    @property
    def files(self) -> int:
        """Bytes of all models on the disk."""
        return sum({model.weights: model.shape.size for model in self.models}.values())


class Plan(NamedTuple):
    """The plan of all model servers, and of the nodes."""

    servers: Mapping[str, ServerPlan]
    """By key of the stack file, such as `ollama`."""
    requests: Mapping[str, Request]
    """Requests on each node by its name, the system's reserve included."""


def requested(values: Mapping[str, Any]) -> Request:
    """Return the sum of every `resources.requests` in a chart's values, one container each."""
    total = Request(0.0, 0)
    for key, value in values.items():
        if key == "resources" and "requests" in value:
            cpu, memory = str(value["requests"]["cpu"]), value["requests"]["memory"]
            cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
            total = total.plus(Request(cores, size(memory)))
        elif isinstance(value, Mapping):
            total = total.plus(requested(value))
    return total


def plan(settings: Settings, reserved: Request) -> Plan:
    """Plan the memory of all model servers; the monitoring chart's pods request `reserved`.

    All models must be known to `catalogue.find`. Servers on one node get its memory in their order.
    """
    webui, servers = settings.webui, settings.model_servers
    requests = dict.fromkeys(settings.nodes, SYSTEM_RESERVE)
    webui_request = Request(webui.cpu, size(webui.memory.request))
    workloads: list[tuple[Ollama | WebUI | Observability, Request]]
    workloads = [(webui, webui_request), (settings.observability, reserved)]
    for server in servers.values():
        fixed = size(server.memory.request) if server.memory else 0
        workloads.append((server, Request(server.cpu, fixed)))
    for workload, request in workloads:
        name = settings.node_of(workload)
        requests[name] = requests[name].plus(request)
    plans = {}
    for key, server in servers.items():
        node = settings.node_of(server)
        plans[key] = _plan_server(server, settings, requests[node].memory)
        if not server.memory:
            planned = Request(0, size(plans[key].memory.request))
            requests[node] = requests[node].plus(planned)
    return Plan(plans, requests)


def _plan_server(server: Ollama, settings: Settings, requested: int) -> ServerPlan:
    """Plan one server; the pods of its node request `requested` bytes, with its own if set."""
    capacity = size(settings.nodes[settings.node_of(server)].memory)
    fixed = size(server.memory.request) if server.memory else 0
    available = capacity - requested + fixed

    models = tuple(_plan_model(name, server, settings) for name in settings.models_on(server))
    fitting = _count_fitting(models, fixed or available, settings.gpu_memory(server))
    loaded = server.loaded_models or max(fitting, server.preloaded_weights)
    resident = _largest(models, loaded)
    needed = sum(model.total for model in resident)
    memory = server.memory or _memory(needed, capacity - SYSTEM_RESERVE.memory)
    return ServerPlan(
        models=models,
        loaded_models=loaded,
        memory=memory,
        needed=needed,
        available=available,
        on_gpu=sum(model.device_memory for model in resident),
    )


def _plan_model(name: str, server: Ollama, settings: Settings) -> ModelPlan:
    declared = server.find(name) or Model(name=name)
    shape = find(declared.base or name, server.model_sizes or {})
    assert shape, f"{name}: config.models lets no unknown model through"
    is_embedding = name == settings.webui.embedding_model or not shape.kv_heads
    # Ollama embeds one request at a time.
    parallel = 1 if is_embedding else server.parallel
    context = min(declared.context or server.context_length, shape.context)
    tokens = context * parallel
    # An unknown model may be a mixture of experts, which reads only a part of its weights.
    bandwidth = settings.memory_bandwidth(server)
    no_ceiling = is_embedding or shape.estimated_from or not bandwidth
    return ModelPlan(
        name=name,
        shape=shape,
        weights=canonical(declared.base or name),
        context=context,
        kv=_kv(shape, tokens, parallel, KV_BYTES[server.kv_cache]),
        compute=_compute(shape, tokens)
        + (0 if is_embedding or not settings.gpu(server) else GPU_BATCH),
        # An encoder has no KV cache that could be kept.
        prompt_cache=size(server.prompt_cache) if shape.kv_heads else 0,
        ceiling=None if no_ceiling else bandwidth / (shape.read or shape.size),
    )


def _kv(shape: Shape, tokens: int, parallel: int, number: float) -> int:
    """Return bytes of the KV cache: a key and a value for each layer and cached token."""
    full = shape.layers // shape.full_every
    windowed = min(tokens, shape.window * parallel + BATCH)
    cached = full * tokens + (shape.layers - full) * windowed
    return math.ceil(2 * shape.kv_heads * shape.head_dim * cached * number)


def _compute(shape: Shape, tokens: int) -> int:
    """Return bytes of compute buffers: a batch's float32 logits and float16 attention mask."""
    text = 4 * BATCH * shape.vocab + 2 * BATCH * tokens if shape.kv_heads else 0
    return max(MIN_COMPUTE, text) + shape.picture


def _largest(models: Iterable[ModelPlan], count: int) -> list[ModelPlan]:
    """Return the `count` largest models; Ollama loads the same weights only once."""
    by_weights: dict[str, ModelPlan] = {}
    for model in sorted(models, key=lambda model: -model.total):
        by_weights.setdefault(model.weights, model)
    return [*by_weights.values()][:count]


def _count_fitting(models: tuple[ModelPlan, ...], available: int, gpu_memory: int | None) -> int:
    """Return how many of the largest models fit together, 1 to `MAX_LOADED`."""
    fitting = 1
    for count in range(2, min(MAX_LOADED, len({model.weights for model in models})) + 1):
        resident = _largest(models, count)
        memory = size(whole_gib(sum(model.total for model in resident)))
        gpu = sum(model.device_memory for model in resident)
        if memory <= available and (gpu_memory is None or gpu <= gpu_memory):
            fitting = count
    return fitting


def _memory(needed: int, most: int) -> Memory:
    """Return Ollama's request and limit; the limit exceeds `most` only if the request does."""
    limit = max(needed, min(needed * (1 + ESTIMATE_ERROR) + OLLAMA_OVERHEAD, most))
    # Not validated: it may exceed any node, which `checks.memory` reports.
    return Memory.model_construct(request=whole_gib(needed), limit=whole_gib(limit))


def whole_gib(bytes_: float) -> str:
    """Return bytes as a quantity in Gi, rounded up."""
    return f"{math.ceil(bytes_ / GIB)}Gi"
