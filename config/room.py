"""What has to fit: the volumes on their disk, and what the pods request on their node."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from config.quantities import Request, gib, size
from config.settings import Settings

SYSTEM_RESERVE = Request(1.0, 4 * 1024**3)
"""Kept on each node for the system, Kubernetes itself, the gateway and short Jobs: MicroK8s'
kubelet reserves nothing and evicts only when 100 MiB are left."""


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


def requests(settings: Settings, monitoring: Request) -> Iterator[str]:
    """Yield the nodes that have less than their pods ask for, `monitoring` being the chart's."""
    for name, node in settings.nodes.items():
        wanted = SYSTEM_RESERVE
        for pod in settings.pods.values():
            if settings.node_of(pod) == name:
                wanted = wanted.plus(Request(pod.cpu, size(pod.memory.request)))
        if settings.node_of(settings.observability) == name:
            wanted = wanted.plus(monitoring)
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
