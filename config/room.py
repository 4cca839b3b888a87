"""What has to fit: volumes on their disk, models in memory, requests on their node."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import PurePosixPath

from config.capacity import SYSTEM_RESERVE, Plan, plan, whole_gib
from config.catalogue import catalogue
from config.declaration import Model
from config.quantities import Request, gib, size
from config.settings import Memory, Settings

LEAST_CONTEXT = 2048
"""Tokens; less is no advice to give."""


def wrong(settings: Settings, monitoring: Request, gpu_memory: int | None = None) -> Iterator[str]:
    """Yield what does not fit, and for models the smallest change by which all would.

    `monitoring` is what the chart requests, `gpu_memory` what the GPU sees in bytes.
    """
    planned = plan(settings, monitoring, gpu_memory)
    yield from volumes(settings)
    for short in models(settings, planned):
        fitting = (
            change
            for change, smaller in _smaller(settings, planned)
            if not any(_all(smaller, plan(smaller, monitoring, gpu_memory)))
        )
        yield f"{short}; it fits {next(fitting, 'with no model of this list')}"
    yield from requests(settings, planned)


def _all(settings: Settings, planned: Plan) -> Iterator[str]:
    return chain(volumes(settings), models(settings, planned), requests(settings, planned))


def volumes(settings: Settings) -> Iterator[str]:
    """Yield the volumes that are off their disk, on one another, or too large for it together."""
    for name, node in settings.nodes.items():
        disk = PurePosixPath(node.disk.path)
        if not disk.is_absolute() or ".." in disk.parts or len(disk.parts) < 2:
            yield f"nodes.{name}.disk.path: {node.disk.path!r} must be where the disk is mounted"
        planned = 0
        taken: dict[PurePosixPath, str] = {}
        for part_key, part in settings.parts.items():
            if settings.node_of(part) != name:
                continue
            key, path = f"{part_key}.volume.path", PurePosixPath(part.volume.path)
            if disk not in path.parents or ".." in path.parts:
                yield f"{key}: {part.volume.path!r} must be a directory below {node.disk.path}"
            for other, other_key in taken.items():
                if path == other or path in other.parents or other in path.parents:
                    yield f"{key}: {path} must not share a directory with {other_key}, {other}"
            taken[path] = key
            planned += size(part.volume.size)
        if (over := planned - size(node.disk.size)) > 0:
            yield (
                f"nodes.{name}.disk.size: {node.disk.size} is {gib(over)} less than its volumes,"
                f" {gib(planned)}; they must fit"
            )


def models(settings: Settings, planned: Plan) -> Iterator[str]:
    """Yield where the models are more than the disk, Ollama's memory or the GPU has for them."""
    ollama = settings.ollama
    if (over := planned.files - size(ollama.volume.size)) > 0:
        yield (
            f"ollama.volume.size: {ollama.volume.size} is {gib(over)} less than the files of the"
            f" models, {gib(planned.files)}"
        )
    loaded = [line.name for line in planned.resident]
    which = f"ollama.models: {', '.join(loaded)}"
    if ollama.loaded_models:
        which = f"ollama.loaded_models: {ollama.loaded_models} ({', '.join(loaded)})"
    if ollama.memory and (over := planned.needed - size(ollama.memory.request)) > 0:
        yield (
            f"ollama.memory.request: {ollama.memory.request} is {gib(over)} less than the"
            f" {gib(planned.needed)} of {', '.join(loaded)} in memory at once"
        )
    elif not ollama.memory and (over := size(planned.memory.request) - planned.left) > 0:
        yield (
            f"{which}: {gib(planned.needed)} in memory at once is {gib(over)} more than"
            f" {settings.node_of(ollama)} has left for Ollama"
        )
    if planned.gpu_memory is not None and (over := planned.on_gpu - planned.gpu_memory) > 0:
        yield (
            f"{which}: {gib(planned.on_gpu)} of the GPU's memory at once is {gib(over)} more than"
            f" it sees, {gib(planned.gpu_memory)}"
        )


def requests(settings: Settings, planned: Plan) -> Iterator[str]:
    """Yield the nodes that have less than what is requested on them."""
    for name, node in settings.nodes.items():
        wanted = planned.requested[name]
        if (over := wanted.memory - size(node.memory)) > 0:
            yield (
                f"nodes.{name}.memory: {node.memory} is {gib(over)} less than what is requested"
                f" on it, {gib(wanted.memory)} with {gib(SYSTEM_RESERVE.memory)} for the system;"
                " it must fit"
            )
        if (short := wanted.cpu - node.cpus) > 0:
            yield (
                f"nodes.{name}.cpus: {node.cpus} is {short:g} less than what is requested on it,"
                f" {wanted.cpu:g} with {SYSTEM_RESERVE.cpu:g} for the system; it must fit"
            )


def _smaller(settings: Settings, planned: Plan) -> Iterator[tuple[str, Settings]]:
    """Yield changes of one key, the one that takes least from the people of the house first."""
    ollama = settings.ollama

    def changed(**keys: object) -> Settings:
        return replace(settings, ollama=replace(ollama, **keys))  # type: ignore[arg-type]

    # More room, where there is some.
    volume = whole_gib(planned.files)
    yield f"with ollama.volume.size: {volume}", changed(volume=replace(ollama.volume, size=volume))
    if ollama.memory:
        request = whole_gib(planned.needed)
        limit = max(ollama.memory.limit, request, key=size)
        memory = Memory(request=request, limit=limit)
        yield f"with ollama.memory.request: {request}", changed(memory=memory)
    # Waiting for another model to load, or for another's answer.
    if ollama.loaded_models:
        for count in range(min(ollama.loaded_models, len(planned.lines)) - 1, 0, -1):
            yield f"with ollama.loaded_models: {count}", changed(loaded_models=count)
    kept = [one.name for one in ollama.models[1:] if one.keep_alive]
    for start in range(len(kept) - 1, -1, -1):
        gone = kept[start:]
        models = [replace(m, keep_alive=None) if m.name in gone else m for m in ollama.models]
        yield f"without keep_alive of {', '.join(gone)}", changed(models=models)
    for count in range(ollama.parallel - 1, 0, -1):
        yield f"with ollama.parallel: {count}", changed(parallel=count)
    # Shorter memory of a chat, then a little less exact, then a smaller model, then none.
    context = ollama.context_length // 2
    while context >= LEAST_CONTEXT:
        yield f"with ollama.context_length: {context}", changed(context_length=context)
        context //= 2
    if ollama.kv_cache == "f16":
        yield "with ollama.kv_cache: q8_0", changed(kv_cache="q8_0")
    largest = sorted(planned.lines, key=lambda line: -line.total)
    chat = [line.name for line in largest if line.name in ollama.names]
    bases = {one.base for one in ollama.models}
    for name in (name for name in chat if name not in bases):
        for other in _relatives(name, planned):
            models = [Model(name=other) if one.name == name else one for one in ollama.models]
            yield f"with {other} instead of {name}", changed(models=models)
    for count in range(1, len(chat)):
        gone = chat[:count]
        models = [one for one in ollama.models if not {one.name, one.base} & {*gone}]
        if models:
            yield f"without {', '.join(gone)}", changed(models=models)


def _relatives(name: str, planned: Plan) -> list[str]:
    """Smaller models of the same family, the largest first."""
    sizes = {line.name: line.model.size for line in planned.lines}
    family = name.rpartition(":")[0]
    found = {
        other: model.size
        for other, model in catalogue().items()
        if other.rpartition(":")[0] == family and other not in sizes and model.size < sizes[name]
    }
    return sorted(found, key=lambda other: -found[other])
