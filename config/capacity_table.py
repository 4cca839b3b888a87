"""The capacity plan as a table, for the output of `pulumi preview`."""

from collections.abc import Iterator

from config.capacity import GIB, ModelPlan, Plan
from config.catalogue import SAFETY
from config.models import closest_name
from config.quantities import gib, size
from config.settings import Settings

HEAD = ("model", "tokens", "weights", "KV", "buffers", "prompts", "total", "tokens/s")


def table(settings: Settings, plan: Plan) -> str:
    """Return a row for each model, in GiB, and the sums for Ollama and each node."""
    rows = [HEAD, *(_row(model, settings.ollama.parallel) for model in plan.models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    title = (
        "Capacity in GiB, estimated and not measured on this machine (docs/operate.md#does-it-fit):"
    )
    return "\n".join([title, *lines, *_sums(settings, plan)])


def _row(model: ModelPlan, parallel: int) -> tuple[str, ...]:
    sizes = (model.shape.size, model.kv, model.compute, model.prompt_cache, model.total)
    return (
        f"{model.name} *" if model.shape.estimated_from else model.name,
        f"{model.context}" if parallel == 1 else f"{parallel} x {model.context}",
        *(f"{bytes_ / GIB:.1f}" for bytes_ in sizes),
        f"<= {model.ceiling:.0f}" if model.ceiling else "-",
    )


def _sums(settings: Settings, plan: Plan) -> Iterator[str]:
    estimated = [model for model in plan.models if model.shape.estimated_from]
    if estimated:
        sources = ", ".join(f"{m.name} from its {m.shape.estimated_from}" for m in estimated)
        similar = [
            name
            for model in estimated
            if model.shape.estimated_from == "name" and (name := closest_name(model.weights))
        ]
        yield (
            f"* not in the catalogue: estimated {sources}, plus {SAFETY - 1:.0%}"
            + (f"; did you mean {', '.join(similar)}?" if similar else "")
        )
    names = ", ".join(model.name for model in plan.resident)
    yield (
        f"loaded at once, at most: {gib(plan.needed)} for {names};"
        f" Ollama has request {plan.memory.request}, limit {plan.memory.limit}"
    )
    if settings.gpu_memory is not None:
        yield f"GPU memory: {gib(plan.on_gpu)} of {gib(settings.gpu_memory)}"
    for name, node in settings.nodes.items():
        requested, memory = gib(plan.requested[name].memory), gib(size(node.memory))
        yield f"{name}: {requested} of {memory} requested, the system's reserve included"
    yield f"files of the models: {gib(plan.files)} of {gib(size(settings.ollama.volume.size))}"
