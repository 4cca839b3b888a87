"""The capacity plan as the table that a preview shows."""

from collections.abc import Iterator

from config.capacity import GIB, Line, Plan
from config.catalogue import SAFETY
from config.models import meant
from config.quantities import gib, size
from config.settings import Settings

HEAD = ("model", "tokens", "weights", "KV", "buffers", "prompts", "total", "tokens/s")


def table(settings: Settings, plan: Plan) -> str:
    """Write a line for each model, in GiB, and what all of it is of the machines."""
    rows = [HEAD, *(_row(line, settings.ollama.parallel) for line in plan.lines)]
    wide = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]).rstrip()
        for row in rows
    ]
    title = (
        "Capacity, planned in GiB and never measured on this machine (docs/operate.md#does-it-fit):"
    )
    return "\n".join([title, *lines, *_sums(settings, plan)])


def _row(line: Line, parallel: int) -> tuple[str, ...]:
    parts = (line.model.size, line.kv, line.compute, line.prompt_cache, line.total)
    return (
        f"{line.name} *" if line.model.guessed else line.name,
        f"{line.context}" if parallel == 1 else f"{parallel} x {line.context}",
        *(f"{part / GIB:.1f}" for part in parts),
        f"<= {line.ceiling:.0f}" if line.ceiling else "-",
    )


def _sums(settings: Settings, plan: Plan) -> Iterator[str]:
    guessed = [f"{one.name} by its {one.model.guessed}" for one in plan.lines if one.model.guessed]
    near = [
        name for one in plan.lines if one.model.guessed == "name" and (name := meant(one.weights))
    ]
    if guessed:
        yield (
            f"* not in the catalogue, planned {', '.join(guessed)}"
            f" with {SAFETY - 1:.0%} more than that"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    names = ", ".join(line.name for line in plan.resident)
    yield (
        f"in memory at once, at worst: {names}: {gib(plan.needed)};"
        f" Ollama requests {plan.memory.request} and is killed at {plan.memory.limit}"
    )
    if settings.gpu_memory is not None:
        yield f"GPU: {gib(plan.on_gpu)} of {gib(settings.gpu_memory)}"
    for name, node in settings.nodes.items():
        asked, has = gib(plan.requested[name].memory), gib(size(node.memory))
        yield f"{name}: {asked} of {has} requested, by all that runs there and for the system"
    yield f"models' files: {gib(plan.files)} of {gib(size(settings.ollama.volume.size))}"
