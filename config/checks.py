"""What several keys of a stack file have to be together; each check yields what is not so.

A check may come upon a key that is wrong by itself and so is missing (`config.errors.right_part`).
"""

import re
from collections.abc import Iterator
from functools import reduce
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any

from config.capacity import SYSTEM_RESERVE, Plan, Request, plan, whole_gib
from config.errors import SECRET, Encrypted, NoValue, Problem
from config.hosts import PROFILES
from config.quantities import gib, size
from config.settings import SECRETS, Settings

LEAST_CONTEXT = 2048
"""Tokens; less is no advice to give."""


def _get(value: Any, *names: str) -> Any:
    return reduce(lambda above, name: getattr(above, name, None), names, value)


def nodes(settings: Settings) -> Iterator[Problem]:
    """Each part runs on a node that there is."""
    for key, part in settings.parts.items():
        if (name := _get(part, "node")) and name not in settings.nodes:
            yield Problem((key, "node"), name, f"one of the nodes: {', '.join(settings.nodes)}")


def addresses(settings: Settings) -> Iterator[Problem]:
    """Nodes and pool are in the home network, pages in the pool, and no address is there twice."""
    pool, lan = settings.network.pool, IPv4Network(settings.network.lan)
    first, last = map(IPv4Address, pool.split("-"))
    if first not in lan or last not in lan:
        yield Problem(("network", "pool"), pool, f"a range within network.lan, {lan}")
        return
    taken: dict[str, str] = {}
    for name, node in settings.nodes.items():
        at, address = ("nodes", name, "address"), _get(node, "address")
        if address and IPv4Address(address) not in lan:
            yield Problem(at, address, f"an address within network.lan, {lan}")
        elif address in taken:
            yield Problem(at, address, f"another address than {taken[address]} has")
        elif address and first <= IPv4Address(address) <= last:
            yield Problem(("network", "pool"), pool, f"a range without {address}, which {name} has")
        taken[address] = f"nodes.{name}"
    for key in ("webui", "observability"):
        address = _get(settings, key, "lan_address")
        if address and not first <= IPv4Address(address) <= last:
            yield Problem((key, "lan_address"), address, f"an address of network.pool, {pool}")
        elif address in taken and address:
            yield Problem((key, "lan_address"), address, f"another than {taken[address]} has")
        taken[address] = f"{key}.lan_address"


def access(settings: Settings) -> Iterator[Problem]:
    """The chat page is reached by an address, or by a proxy that signs people in."""
    webui = settings.webui
    reached, header = webui.lan_address or webui.tailnet_address, webui.trusted_email_header
    if reached and header:
        # A client that goes round the proxy could send the header itself, and be anyone.
        want = "nothing beside lan_address or tailnet_address"
        yield Problem(("webui", "trusted_email_header"), header, want)
    elif header and not webui.origins:
        want = "the URL of the proxy that sends trusted_email_header"
        yield Problem(("webui", "origins"), NoValue.MISSING, want)
    elif not reached and not header:
        yield Problem(("webui", "lan_address"), NoValue.MISSING, "an address of network.pool")


def notify(settings: Settings) -> Iterator[Problem]:
    """Alerts go one way, and its secret looks like one."""
    said, secret = settings.observability.notify, settings.notifySecret
    if not said:
        if secret:
            yield Problem(("notifySecret",), Encrypted(), "nothing without observability.notify")
        return
    ways = [way for way in SECRETS if getattr(said, way) is not None]
    if len(ways) != 1:
        want = f"exactly one of {', '.join(SECRETS)}"
        yield Problem(("observability", "notify"), ways, want)
        return
    pattern, want = SECRETS[said.way]
    if secret != SECRET and not re.fullmatch(pattern, secret):
        want = f"{want}: pulumi config set --secret homelab:notifySecret"
        yield Problem(("notifySecret",), Encrypted() if secret else NoValue.MISSING, want)


def hosts(settings: Settings) -> Iterator[Problem]:
    """A machine has what its profile needs, and its models ask no more than it allows."""
    for name, node in settings.nodes.items():
        if node.gpu and size(node.gpu.memory) >= size(node.memory):
            want = f"less than the node's memory, {node.memory}, of which it is a part"
            yield Problem(("nodes", name, "gpu", "memory"), node.gpu.memory, want)
        if not node.gpu and PROFILES[node.profile].device:
            want = f"memory and groups as the machine has them, for profile {node.profile}"
            yield Problem(("nodes", name, "gpu"), NoValue.MISSING, want)
    ollama, profile = settings.ollama, settings.profile
    context, cache = profile.context_limit, profile.prompt_cache_limit
    only = f"with profile {settings.node_of_models.profile}"
    if context and ollama.context_length > context:
        want = f"at most {context} {only}"
        yield Problem(("ollama", "context_length"), ollama.context_length, want)
    if cache and size(ollama.prompt_cache) > size(cache):
        yield Problem(("ollama", "prompt_cache"), ollama.prompt_cache, f"at most {cache} {only}")


def volumes(settings: Settings) -> Iterator[Problem]:
    """Volumes are on the disk of their node, each by itself, and backups are on another."""
    taken: dict[tuple[str, PurePosixPath], str] = {}
    for key, part in settings.parts.items():
        if not (text := _get(part, "volume", "path")):
            continue
        at, path, node = (key, "volume", "path"), PurePosixPath(text), settings.node_of(part)
        if (disk := PurePosixPath(settings.nodes[node].disk.path)) not in path.parents:
            yield Problem(at, text, f"a directory below {disk}, the disk of {node}")
            continue
        for (other_node, other), other_key in taken.items():
            if node == other_node and (path.is_relative_to(other) or other.is_relative_to(path)):
                yield Problem(at, text, f"a directory apart from {other_key}.volume.path, {other}")
        taken[node, path] = key
    if backup := settings.webui.backup:
        path = PurePosixPath(backup.volume.path)
        disk = PurePosixPath(settings.nodes[settings.node_of(settings.webui)].disk.path)
        # One broken disk must not take the chats and their backups.
        if path.is_relative_to(disk) or disk.is_relative_to(path) or len(path.parts) < 3:
            want = f"a directory on another disk than the data, {disk}, such as /mnt/backup/homelab"
            yield Problem(("webui", "backup", "volume", "path"), backup.volume.path, want)


def disks(settings: Settings) -> Iterator[Problem]:
    """The volumes of a node fit on its disk."""
    for name, node in settings.nodes.items():
        parts = {key: it for key, it in settings.parts.items() if settings.node_of(it) == name}
        needed = sum(size(part.volume.size) for part in parts.values())
        if needed > size(node.disk.size):
            sizes = ", ".join(f"{key}.volume.size {it.volume.size}" for key, it in parts.items())
            want = f"{whole_gib(needed)} or more for its volumes: {sizes}"
            yield Problem(("nodes", name, "disk", "size"), node.disk.size, want)


def memory(settings: Settings, reserved: Request) -> Iterator[Problem]:
    """The models fit on their volume and in memory, and all requests on their nodes."""
    planned, ollama = plan(settings, reserved), settings.ollama
    if planned.files > size(ollama.volume.size):
        want = f"{whole_gib(planned.files)} or more for the files of the models"
        yield Problem(("ollama", "volume", "size"), ollama.volume.size, want)
    short = [*_models(settings, planned)]
    for at, got, want in short:
        yield Problem(at, got, want + _advice(settings, reserved))
    for name, node in settings.nodes.items():
        asked, kept = planned.requested[name], SYSTEM_RESERVE
        if asked.memory > size(node.memory) and not short:
            kept_memory = f"with {gib(kept.memory)} for the system"
            want = f"{whole_gib(asked.memory)} or more, as is requested on it, {kept_memory}"
            yield Problem(("nodes", name, "memory"), node.memory, want)
        if asked.cpu > node.cpus:
            want = f"{asked.cpu:g} or more, as is requested on it, with {kept.cpu:g} for the system"
            yield Problem(("nodes", name, "cpus"), node.cpus, want)


def _models(settings: Settings, planned: Plan) -> Iterator[Problem]:
    """The models to be loaded at once fit into the memory that Ollama has, and into the GPU."""
    ollama, loaded = settings.ollama, [line.name for line in planned.resident]
    key, got = (
        ("loaded_models", ollama.loaded_models) if ollama.loaded_models else ("models", loaded)
    )
    take = f"models that fit: {', '.join(loaded)} take"
    if ollama.memory:
        if planned.needed > size(ollama.memory.request):
            want = f"{whole_gib(planned.needed)} or more, for {', '.join(loaded)} at once"
            yield Problem(("ollama", "memory", "request"), ollama.memory.request, want)
    elif (over := size(planned.memory.request) - planned.left) > 0:
        left = f"{gib(over)} more than {settings.node_of(ollama)} has left for Ollama"
        yield Problem(("ollama", key), got, f"{take} {gib(planned.needed)} at once, {left}")
    if (seen := settings.gpu_memory) is not None and (over := planned.on_gpu - seen) > 0:
        sees = f"{gib(over)} more than the {gib(seen)} that the GPU sees"
        yield Problem(("ollama", key), got, f"{take} {gib(planned.on_gpu)} at once, {sees}")


def _advice(settings: Settings, reserved: Request) -> str:
    """The first change of one key by which the models would fit; empty if there is none."""
    ollama, lines = settings.ollama, plan(settings, reserved).lines
    chat = [line for line in lines if ollama.named(line.name)]
    largest = max(chat, key=lambda line: line.total).name
    rest = [one for one in ollama.models if largest not in (one.name, one.base)]
    guessed = [line.name for line in chat if line.name == largest and line.model.guessed == "name"]
    right = ", ".join(f"{name}: ..." for name in guessed)
    says = f"; its size is guessed by its name: ollama.model_sizes: {{{right}}} says the right one"
    says = says if guessed else ""
    changes: dict[str, dict[str, object]] = {}
    for count in range((ollama.loaded_models or 0) - 1, ollama.loaded_at_once - 1, -1):
        changes[f"with ollama.loaded_models: {count}"] = {"loaded_models": count}
    context = ollama.context_length
    while (context := context // 2) >= LEAST_CONTEXT:
        changes[f"with ollama.context_length: {context}"] = {"context_length": context}
    if rest:
        changes[f"without {largest}"] = {"models": rest}
    for text, change in changes.items():
        smaller = settings.model_copy(update={"ollama": ollama.model_copy(update=change)})
        if not any(_models(smaller, plan(smaller, reserved))):
            return f"; it fits {text}{says}"
    return says
