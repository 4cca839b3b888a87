"""Checks across several keys of a stack file; each yields a Problem for each invalid value.

A check may find a key missing that is invalid by itself (`config.errors.without_invalid`).
"""

import re
from collections.abc import Iterator
from functools import reduce
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any

from config.capacity import SYSTEM_RESERVE, Request, ServerPlan, plan, whole_gib
from config.errors import SECRET, Encrypted, NoValue, Problem
from config.hosts import PROFILES
from config.model_name import canonical
from config.quantities import gib, size
from config.settings import SECRETS, Settings

MIN_CONTEXT = 2048
"""Smallest context length, in tokens, that an error suggests."""


def _get(value: Any, *names: str) -> Any:
    return reduce(lambda parent, name: getattr(parent, name, None), names, value)


def nodes(settings: Settings) -> Iterator[Problem]:
    """Check that each workload's node exists, and is named if there are several.

    Pulumi sorts the keys of an object: a node with an earlier name would get all volumes.
    """
    for key, workload in settings.workloads.items():
        name = _get(workload, "node") or NoValue.MISSING
        if name not in settings.nodes and (name != NoValue.MISSING or len(settings.nodes) > 1):
            want = f"one of the nodes: {', '.join(settings.nodes)}"
            yield Problem((*key.split("."), "node"), name, want)


def addresses(settings: Settings) -> Iterator[Problem]:
    """Check that nodes and pool are in the LAN, pages in the pool, and all addresses distinct."""
    pool, lan = settings.network.pool, IPv4Network(settings.network.lan)
    first, last = map(IPv4Address, pool.split("-"))
    if first not in lan or last not in lan:
        yield Problem(("network", "pool"), pool, f"a range within network.lan, {lan}")
        return
    used: dict[str, str] = {}
    for name, node in settings.nodes.items():
        path, address = ("nodes", name, "address"), _get(node, "address")
        if address and IPv4Address(address) not in lan:
            yield Problem(path, address, f"an address within network.lan, {lan}")
        elif address in used:
            yield Problem(path, address, f"another address than that of {used[address]}")
        elif address and first <= IPv4Address(address) <= last:
            yield Problem(("network", "pool"), pool, f"a range without {address}, node {name}")
        used[address] = f"nodes.{name}"
    for key in ("webui", "observability"):
        address = _get(settings, key, "lan_address")
        if address and not first <= IPv4Address(address) <= last:
            yield Problem((key, "lan_address"), address, f"an address in network.pool, {pool}")
        elif address in used and address:
            yield Problem((key, "lan_address"), address, f"another address than {used[address]}")
        used[address] = f"{key}.lan_address"


def access(settings: Settings) -> Iterator[Problem]:
    """Check that clients reach the chat page by an address, or by an authenticating proxy."""
    webui = settings.webui
    address, header = webui.lan_address or webui.tailnet_address, webui.trusted_email_header
    if address and header:
        # A client that bypasses the proxy could forge the header, and sign in as anyone.
        want = "nothing while lan_address or tailnet_address is set"
        yield Problem(("webui", "trusted_email_header"), header, want)
    elif header and not webui.origins:
        want = "the URL of the proxy that sends trusted_email_header"
        yield Problem(("webui", "origins"), NoValue.MISSING, want)
    elif not address and not header:
        yield Problem(("webui", "lan_address"), NoValue.MISSING, "an address in network.pool")


def notify(settings: Settings) -> Iterator[Problem]:
    """Check that alerts have one receiver, and that its secret matches the pattern."""
    notify, secret = settings.observability.notify, settings.notifySecret
    if not notify:
        if secret:
            yield Problem(("notifySecret",), Encrypted(), "nothing without observability.notify")
        return
    receivers = [key for key in SECRETS if getattr(notify, key) is not None]
    if len(receivers) != 1:
        want = f"exactly one of {', '.join(SECRETS)}"
        yield Problem(("observability", "notify"), receivers, want)
        return
    pattern, want = SECRETS[notify.receiver]
    if secret != SECRET and not re.fullmatch(pattern, secret):
        want = f"{want}: pulumi config set --secret homelab:notifySecret"
        yield Problem(("notifySecret",), Encrypted() if secret else NoValue.MISSING, want)


def hosts(settings: Settings) -> Iterator[Problem]:
    """Check that nodes have what their profile needs, and that Ollama is within its limits."""
    for name, node in settings.nodes.items():
        if node.gpu and size(node.gpu.memory) >= size(node.memory):
            want = f"less than the node's memory, {node.memory}, which includes it"
            yield Problem(("nodes", name, "gpu", "memory"), node.gpu.memory, want)
        if not node.gpu and PROFILES[node.profile].device:
            want = f"the memory and groups of its GPU, for profile {node.profile}"
            yield Problem(("nodes", name, "gpu"), NoValue.MISSING, want)
    on_gpu: dict[str, str] = {}
    for key, server in settings.model_servers.items():
        path, name, profile = key.split("."), settings.node_of(server), settings.profile(server)
        context, cache = profile.context_limit, profile.prompt_cache_limit
        condition = f"with profile {settings.nodes[name].profile}"
        if context and server.context_length > context:
            want = f"at most {context} {condition}"
            yield Problem((*path, "context_length"), server.context_length, want)
        if cache and size(server.prompt_cache) > size(cache):
            want = f"at most {cache} {condition}"
            yield Problem((*path, "prompt_cache"), server.prompt_cache, want)
        if profile.device and on_gpu.setdefault(name, key) != key:
            yield Problem((*path, "node"), name, f"another node: {on_gpu[name]} has its GPU")


def volumes(settings: Settings) -> Iterator[Problem]:
    """Check that volumes are disjoint and on their node's disk, and backups on another disk."""
    used: dict[tuple[str, PurePosixPath], str] = {}
    for key, workload in settings.workloads.items():
        if not (value := _get(workload, "volume", "path")):
            continue
        keys, path = (*key.split("."), "volume", "path"), PurePosixPath(value)
        node = settings.node_of(workload)
        if (disk := PurePosixPath(settings.nodes[node].disk.path)) not in path.parents:
            yield Problem(keys, value, f"a directory below {disk}, the disk of {node}")
            continue
        for (other_node, other), other_key in used.items():
            if node == other_node and (path.is_relative_to(other) or other.is_relative_to(path)):
                want = f"a directory outside of {other_key}.volume.path, {other}"
                yield Problem(keys, value, want)
        used[node, path] = key
    if backup := settings.webui.backup:
        path = PurePosixPath(backup.volume.path)
        disk = PurePosixPath(settings.nodes[settings.node_of(settings.webui)].disk.path)
        # On the same disk, one failure would destroy the chats and their backups.
        if path.is_relative_to(disk) or disk.is_relative_to(path) or len(path.parts) < 3:
            want = f"a directory on another disk than the data, {disk}, such as /mnt/backup/homelab"
            yield Problem(("webui", "backup", "volume", "path"), backup.volume.path, want)


def disks(settings: Settings) -> Iterator[Problem]:
    """Check that the volumes of each node fit on its disk."""
    for name, node in settings.nodes.items():
        sizes = {
            f"{key}.volume.size": workload.volume.size
            for key, workload in settings.workloads.items()
            if settings.node_of(workload) == name
        }
        needed = sum(map(size, sizes.values()))
        if needed > size(node.disk.size):
            summands = ", ".join(f"{key} {value}" for key, value in sizes.items())
            want = f"{whole_gib(needed)} or more for its volumes: {summands}"
            yield Problem(("nodes", name, "disk", "size"), node.disk.size, want)


def memory(settings: Settings, reserved: Request) -> Iterator[Problem]:
    """Check that the models fit on their volume and in memory, and all requests on their nodes."""
    planned, full = plan(settings, reserved), set()
    for key, server in settings.model_servers.items():
        if (files := planned.servers[key].files) > size(server.volume.size):
            want = f"{whole_gib(files)} or more for the files of the models"
            yield Problem((*key.split("."), "volume", "size"), server.volume.size, want)
        for path, got, want in _loaded_models(settings, key, planned.servers[key]):
            full.add(settings.node_of(server))
            yield Problem(path, got, want + _suggestion(settings, key, reserved))
    for name, node in settings.nodes.items():
        requested, reserve = planned.requests[name], SYSTEM_RESERVE
        if requested.memory > size(node.memory) and name not in full:
            want = f"{whole_gib(requested.memory)} or more for all requests"
            want += f" and {gib(reserve.memory)} for the system"
            yield Problem(("nodes", name, "memory"), node.memory, want)
        if requested.cpu > node.cpus:
            want = f"{requested.cpu:g} or more for all requests and {reserve.cpu:g} for the system"
            servers = settings.model_servers.items()
            keys = [f"{key}.cpu" for key, it in servers if settings.node_of(it) == name]
            want += f", or a smaller {' or '.join(keys)}" if keys else ""
            yield Problem(("nodes", name, "cpus"), node.cpus, want)


def _loaded_models(settings: Settings, key: str, planned: ServerPlan) -> Iterator[Problem]:
    """Check that a server's models loaded at once fit into its memory, and into the GPU's."""
    server, loaded = settings.model_servers[key], [model.name for model in planned.resident]
    path = key.split(".")
    last, got = (
        ("loaded_models", server.loaded_models) if server.loaded_models else ("models", loaded)
    )
    need = f"models that fit: {', '.join(loaded)} need"
    if server.memory:
        if planned.needed > size(server.memory.request):
            want = f"{whole_gib(planned.needed)} or more, for {', '.join(loaded)} at once"
            yield Problem((*path, "memory", "request"), server.memory.request, want)
    elif (excess := size(planned.memory.request) - planned.available) > 0:
        available = f"{gib(excess)} more than {settings.node_of(server)} has left for Ollama"
        yield Problem((*path, last), got, f"{need} {gib(planned.needed)} at once, {available}")
    memory = settings.gpu_memory(server)
    if memory is not None and (excess := planned.on_gpu - memory) > 0:
        available = f"{gib(excess)} more than the GPU's {gib(memory)}"
        yield Problem((*path, last), got, f"{need} {gib(planned.on_gpu)} at once, {available}")


def _suggestion(settings: Settings, key: str, reserved: Request) -> str:
    """Return the first change of one key with which a server's models fit, and who has room."""
    server, models = settings.model_servers[key], plan(settings, reserved).servers[key].models
    chat = [model for model in models if server.find(model.name)]
    largest = max(chat, key=lambda model: model.total)
    others = [model for model in server.models if largest.name not in (model.name, model.base)]
    hint = ""
    if largest.shape.estimated_from == "name":
        hint = "; its size is estimated from its name: "
        hint += f"set {key}.model_sizes: {{{largest.name}: ...}} if that is wrong"
    if rooms := [*_servers_for(largest.weights, settings, key, reserved)]:
        hint = f"; {largest.name} fits on {', '.join(rooms)}{hint}"
    changes: dict[str, dict[str, object]] = {}
    for count in range((server.loaded_models or 0) - 1, server.preloaded_weights - 1, -1):
        changes[f"with {key}.loaded_models: {count}"] = {"loaded_models": count}
    context = server.context_length
    while (context := context // 2) >= MIN_CONTEXT:
        changes[f"with {key}.context_length: {context}"] = {"context_length": context}
    if others:
        changes[f"without {largest.name}"] = {"models": others}
    for text, change in changes.items():
        if _fits(settings.with_server(key, server.model_copy(update=change)), key, reserved):
            return f"; it fits {text}{hint}"
    return hint


def _servers_for(weights: str, settings: Settings, key: str, reserved: Request) -> Iterator[str]:
    """Yield the other servers that the models with these weights fit on, beside what is there."""
    server = settings.model_servers[key]
    models = [it for it in server.models if canonical(it.base or it.name) == weights]
    for other_key, other in settings.model_servers.items():
        if other_key == key or any(other.find(model.name) for model in models):
            continue
        change = {
            "models": [*other.models, *models],
            "model_sizes": {**(server.model_sizes or {}), **(other.model_sizes or {})},
        }
        moved = settings.with_server(other_key, other.model_copy(update=change))
        files = plan(moved, reserved).servers[other_key].files
        if files <= size(other.volume.size) and _fits(moved, other_key, reserved):
            yield other_key


def _fits(settings: Settings, key: str, reserved: Request) -> bool:
    return not any(_loaded_models(settings, key, plan(settings, reserved).servers[key]))
