"""The capacity plan as a table, for the output of `pulumi preview`."""

import textwrap
from collections.abc import Iterator

from config.capacity import GIB, ModelPlan, Plan, ServerPlan
from config.catalogue import SAFETY
from config.quantities import gib, size
from config.settings import Settings

WIDTH = 94
"""Columns of a line: the CLI indents it by 6."""
HEAD = ("server", "model", "tokens", "weights", "KV", "buffers", "prompts", "total", "tokens/s")


def table(settings: Settings, plan: Plan) -> str:
    """Return a row for each model of each server, in GiB, and the sums for servers and nodes.

    The column `server` is there if there are several.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    for key, server in settings.model_servers.items():
        rows += [(key, *_row(model, server.parallel)) for model in plan.servers[key].models]
    several = len(plan.servers) > 1
    rows = rows if several else [row[1:] for row in rows]
    columns = [
        [value.ljust(width) if index <= several else value.rjust(width) for value in column]
        for index, column in enumerate(zip(*rows, strict=True))
        if (width := max(map(len, column)))
    ]
    lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    title = (
        "Capacity in GiB, estimated and not measured on this machine (docs/operate.md#does-it-fit):"
    )
    sums = [
        f"{key}: {line}" if several else line
        for key in plan.servers
        for line in _server_sums(settings, key, plan.servers[key])
    ]
    sums += _node_sums(settings, plan)
    # A model's name may have hyphens.
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join([title, *lines, *map(wrapper.fill, sums)])


def _row(model: ModelPlan, parallel: int) -> tuple[str, ...]:
    sizes = (model.shape.size, model.kv, model.compute, model.prompt_cache, model.total)
    return (
        f"{model.name} *" if model.shape.estimated_from else model.name,
        f"{model.context}" if parallel == 1 else f"{parallel} x {model.context}",
        *(f"{bytes_ / GIB:.1f}" for bytes_ in sizes),
        f"<= {model.ceiling:.0f}" if model.ceiling else "-",
    )


def _server_sums(settings: Settings, key: str, plan: ServerPlan) -> Iterator[str]:
    server = settings.model_servers[key]
    estimated = [model for model in plan.models if model.shape.estimated_from]
    if estimated:
        sources = ", ".join(f"{m.name} from its {m.shape.estimated_from}" for m in estimated)
        yield f"* not in the catalogue: estimated {sources}, plus {SAFETY - 1:.0%}"
    names = ", ".join(model.name for model in plan.resident)
    yield f"most memory, if loaded together: {gib(plan.needed)} for {names}"
    yield f"Ollama's memory: request {plan.memory.request}, limit {plan.memory.limit}"
    if (memory := settings.gpu_memory(server)) is not None:
        yield f"GPU memory: {gib(plan.on_gpu)} of {gib(memory)}"
    yield f"files of the models: {gib(plan.files)} of {gib(size(server.volume.size))}"


def _node_sums(settings: Settings, plan: Plan) -> Iterator[str]:
    for name, node in settings.nodes.items():
        requested, memory = gib(plan.requests[name].memory), gib(size(node.memory))
        yield f"{name}: {requested} of {memory} requested, with the reserve for the system"
