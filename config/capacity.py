"""Will it fit? What the models, the page and the monitoring take of memory, GPU and disk."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from config.catalogue import Shape, find
from config.model_name import canonical
from config.quantities import size
from config.settings import Memory, Model, Settings


class Request(NamedTuple):
    """What pods ask of a node: cores, and bytes of memory."""

    cpu: float
    memory: int

    def plus(self, other: "Request") -> "Request":
        """Both together."""
        return Request(self.cpu + other.cpu, self.memory + other.memory)


GIB = 1024**3
SYSTEM_RESERVE = Request(1.0, 4 * GIB)
"""Kept on each node for the system, Kubernetes itself, the gateway and short Jobs: MicroK8s'
kubelet reserves nothing and evicts only when 100 MiB are left."""

KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of a number in the context by `ollama.kv_cache`; 32 of the small ones share 2 bytes."""

BATCH = 512
"""Tokens of a prompt that llama.cpp works on at once."""
LEAST_COMPUTE = 3 * GIB // 10
"""Buffers of any model; 0.3 to 2 GiB are known."""
GPU_BATCH = 2 * GIB
"""What Ollama adds for a larger batch where the GPU has room."""

MOST_LOADED = 3
"""Models in memory at once where the owner does not say: Ollama's own number."""
ERROR, SERVER = 0.15, 2 * GIB
"""What the limit is above the request: what the plan may be wrong by, and Ollama itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one model takes, loaded with its context; everything in bytes but tokens."""

    name: str
    model: Shape
    weights: str
    """Canonical name of the model whose files it is: a variant is its base."""
    context: int
    """Tokens of each request: no more than the model was trained on."""
    kv: int
    compute: int
    prompt_cache: int
    ceiling: float | None
    """Tokens/s that the memory allows with an empty context; None where that is not known."""

    @property
    def computing(self) -> int:
        """Weights, context and buffers: what is on the GPU, where there is one."""
        return self.model.size + self.kv + self.compute

    @property
    def total(self) -> int:
        """All that it takes."""
        return self.computing + self.prompt_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the house takes, and what Ollama is given for it."""

    lines: tuple[Line, ...]
    """The models in the order of the stack file; what reads documents is the last."""
    loaded_models: int
    memory: Memory
    needed: int
    """Bytes of the models in memory at once, `resident`."""
    left: int
    """Bytes that the node of Ollama has left for it."""
    on_gpu: int
    """Bytes of those models that the GPU has to see."""
    requested: Mapping[str, Request]
    """What is asked of each node, with what is kept for the system."""

    @property
    def resident(self) -> list[Line]:
        """The models that are in memory at worst: the largest, of the same weights only one."""
        return _largest(self.lines, self.loaded_models)

    @property
    def files(self) -> int:
        """Bytes of all models on the disk."""
        return sum({line.weights: line.model.size for line in self.lines}.values())


def requested(values: Mapping[str, Any]) -> Request:
    """Sum every `resources.requests` in a chart's values, each counted for one container."""
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
    """Plan what the pods take; those of the monitoring chart request `reserved`.

    All models must be known to `catalogue.find`.
    """
    ollama, webui, home = settings.ollama, settings.webui, settings.node_of(settings.ollama)
    asked = dict.fromkeys(settings.nodes, SYSTEM_RESERVE)
    for part, request in (
        (ollama, Request(ollama.cpu, 0)),
        (webui, Request(webui.cpu, size(webui.memory.request))),
        (settings.observability, reserved),
    ):
        asked[settings.node_of(part)] = asked[settings.node_of(part)].plus(request)
    has = size(settings.nodes[home].memory)
    left = has - asked[home].memory

    lines = tuple(_line(name, settings) for name in settings.model_set)
    room = size(ollama.memory.request) if ollama.memory else left
    fit = _as_many_as_fit(lines, room, settings.gpu_memory)
    loaded = ollama.loaded_models or max(fit, ollama.loaded_at_once)
    resident = _largest(lines, loaded)
    needed = sum(line.total for line in resident)
    memory = ollama.memory or _memory(needed, has - SYSTEM_RESERVE.memory)
    asked[home] = asked[home].plus(Request(0, size(memory.request)))
    return Plan(
        lines=lines,
        loaded_models=loaded,
        memory=memory,
        needed=needed,
        left=left,
        on_gpu=sum(line.computing for line in resident),
        requested=asked,
    )


def _line(name: str, settings: Settings) -> Line:
    ollama = settings.ollama
    declared = ollama.named(name) or Model(name=name)
    model = find(declared.base or name, ollama.model_sizes or {})
    assert model, f"{name}: config.models lets no unknown model through"
    # Ollama answers one at a time with what reads documents.
    reads = name == settings.webui.embedding_model or not model.kv_heads
    context = min(declared.context or ollama.context_length, model.context)
    tokens = context * (1 if reads else ollama.parallel)
    # Of a guessed one nobody knows whether it has experts, and reads far less.
    silent = reads or model.guessed or not settings.memory_bandwidth
    return Line(
        name=name,
        model=model,
        weights=canonical(declared.base or name),
        context=context,
        kv=_kv(model, tokens, 1 if reads else ollama.parallel, KV_BYTES[ollama.kv_cache]),
        compute=_compute(model, tokens) + (0 if reads or not settings.gpu else GPU_BATCH),
        # An encoder keeps nothing that could be cached.
        prompt_cache=size(ollama.prompt_cache) if model.kv_heads else 0,
        ceiling=None if silent else settings.memory_bandwidth / (model.read or model.size),
    )


def _kv(model: Shape, tokens: int, parallel: int, number: float) -> int:
    """Bytes of the context: a key and a value for each layer and token that it keeps."""
    full = model.layers // model.full_every
    windowed = min(tokens, model.window * parallel + BATCH)
    kept = full * tokens + (model.layers - full) * windowed
    return math.ceil(2 * model.kv_heads * model.head_dim * kept * number)


def _compute(model: Shape, tokens: int) -> int:
    """Bytes of buffers: for a batch a float32 for each word there is, and its mask in float16."""
    text = 4 * BATCH * model.vocab + 2 * BATCH * tokens if model.kv_heads else 0
    return max(LEAST_COMPUTE, text) + model.picture


def _largest(lines: Iterable[Line], count: int) -> list[Line]:
    """So many of the largest. Ollama loads the same weights once, whatever they are called."""
    once: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: -line.total):
        once.setdefault(line.weights, line)
    return [*once.values()][:count]


def _as_many_as_fit(lines: tuple[Line, ...], room: int, gpu_memory: int | None) -> int:
    """Models that fit together, the largest first, up to `MOST_LOADED`; one if none does."""
    fit = 1
    for count in range(2, min(MOST_LOADED, len({line.weights for line in lines})) + 1):
        resident = _largest(lines, count)
        memory = size(whole_gib(sum(line.total for line in resident)))
        gpu = sum(line.computing for line in resident)
        if memory <= room and (gpu_memory is None or gpu <= gpu_memory):
            fit = count
    return fit


def _memory(needed: int, most: int) -> Memory:
    """What Ollama is scheduled with, and killed at; that is above `most` only if it must be."""
    limit = max(needed, min(needed * (1 + ERROR) + SERVER, most))
    # Unchecked: it may be too large for any machine, which a check then says.
    return Memory.model_construct(request=whole_gib(needed), limit=whole_gib(limit))


def whole_gib(bytes_: float) -> str:
    """Bytes as a quantity, rounded up to GiB."""
    return f"{math.ceil(bytes_ / GIB)}Gi"
