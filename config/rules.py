"""What a stack file has to be beyond its types, told in one line where it is not."""

import math
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from config import backup, catalogue, models, room
from config.capacity import KV_BYTES
from config.hosts.rules import hosts
from config.quantities import Request, size
from config.sections import SettingsError
from config.settings import TAILNET, Settings

CONTEXT_LENGTHS = range(512, 1024**2 + 1)
"""Tokens; 0 would let Ollama choose up to 262144 by the memory it finds, and fill it."""

ORIGIN = re.compile(
    r"(http://(?!.*:80$)|https://(?!.*:443$))?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(?(1)(:\d+)?)"
)
"""A host name, or an Origin as browsers write it (RFC 6454, 6.1): no usual port, no path."""


def check(settings: Settings, monitoring: Request) -> None:
    """Raise SettingsError with the first thing wrong, given what the monitoring chart requests."""
    rules = (_names, _sizes, _numbers, hosts, _images, models.wrong, _known, _addresses, _access)
    for rule in (*rules, backup.problems):
        for wrong in rule(settings):
            raise SettingsError(f"homelab:{wrong}")
    for wrong in room.wrong(settings, monitoring, settings.gpu_memory):
        raise SettingsError(f"homelab:{wrong}")


def _names(settings: Settings) -> Iterator[str]:
    if not settings.nodes:
        yield "nodes: {} must name at least one node with its address, cpus, memory and disk"
    for name in settings.nodes:
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name):
            yield f"nodes.{name}: {name!r} must be a node's name, as kubectl get nodes prints it"
    for key, part in settings.parts.items():
        if part.node is not None and part.node not in settings.nodes:
            yield f"{key}.node: {part.node!r} must be one of the nodes: {', '.join(settings.nodes)}"
    if settings.network.metallb not in ("helm", "addon"):
        yield f"network.metallb: {settings.network.metallb!r} must be helm or addon"
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", settings.webui.admin_email):
        yield (
            f"webui.admin_email: {settings.webui.admin_email!r} must be an e-mail address,"
            " such as me@example.com"
        )
    if settings.ollama.kv_cache not in KV_BYTES:
        yield f"ollama.kv_cache: {settings.ollama.kv_cache!r} must be one of {', '.join(KV_BYTES)}"
    keeps = {"ollama.keep_alive": settings.ollama.keep_alive}
    for index, model in enumerate(settings.ollama.models):
        if model.keep_alive is not None:
            keeps[f"ollama.models[{index}].keep_alive"] = model.keep_alive
    for key, keep_alive in keeps.items():
        if not re.fullmatch(r"-1|(\d+[smh])+", keep_alive):
            yield (
                f"{key}: {keep_alive!r} must be a time such as 30m or 2h,"
                " or -1 to keep a model loaded for ever"
            )


def _sizes(settings: Settings) -> Iterator[str]:
    sizes = {"ollama.prompt_cache": settings.ollama.prompt_cache}
    for model, text in (settings.ollama.model_sizes or {}).items():
        sizes[f"ollama.model_sizes.{model}"] = text
    for key, part in settings.parts.items():
        sizes[f"{key}.volume.size"] = part.volume.size
    memories = {key: pod.memory for key, pod in settings.pods.items() if pod.memory}
    for key, memory in memories.items():
        sizes |= {f"{key}.memory.request": memory.request, f"{key}.memory.limit": memory.limit}
    for name, node in settings.nodes.items():
        sizes |= {f"nodes.{name}.memory": node.memory, f"nodes.{name}.disk.size": node.disk.size}
    for key, text in sizes.items():
        try:
            size(text)
        except ValueError as error:
            yield f"{key}: {error}"
    for key, memory in memories.items():
        if size(memory.limit) < size(memory.request):
            yield (
                f"{key}.memory.limit: {memory.limit} must be at least the request, {memory.request}"
            )


def _numbers(settings: Settings) -> Iterator[str]:
    ollama = settings.ollama
    numbers: dict[str, float] = {
        "ollama.parallel": ollama.parallel,
        "ollama.loaded_models": 1 if ollama.loaded_models is None else ollama.loaded_models,
        **{f"{key}.cpu": pod.cpu for key, pod in settings.pods.items()},
        **{f"nodes.{name}.cpus": node.cpus for name, node in settings.nodes.items()},
    }
    for key, number in numbers.items():
        if not 0 < number < math.inf:
            yield f"{key}: {number:g} must be more than 0"
    for name, node in settings.nodes.items():
        # A single channel of DDR3 has 6; the fastest stacked memory has 8000.
        if node.memory_bandwidth is not None and not 5 <= node.memory_bandwidth <= 8000:
            yield (
                f"nodes.{name}.memory_bandwidth: {node.memory_bandwidth:g} must be GB/s,"
                " such as 89.6 for two channels of DDR5-5600"
            )
    contexts = {"ollama.context_length": ollama.context_length}
    for index, model in enumerate(ollama.models):
        if model.context is not None:
            contexts[f"ollama.models[{index}].context"] = model.context
    for key, context in contexts.items():
        if context not in CONTEXT_LENGTHS:
            yield (
                f"{key}: {context} must be {CONTEXT_LENGTHS[0]} to"
                f" {CONTEXT_LENGTHS[-1]} tokens, such as 8192"
            )


def _images(settings: Settings) -> Iterator[str]:
    for key, image in settings.images.items():
        # latest, main and 0.12 all move; only a full version stays what it was.
        if not re.fullmatch(r"[^\s:@]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image):
            yield (
                f"{key}: {image!r} must name one version, as name:1.2.3"
                " or name:1.2.3@sha256:<64 hex digits>"
            )
    runbook = settings.observability.runbook
    if runbook != "docs/runbook.md" and not re.fullmatch(r"https?://\S+", runbook):
        yield f"observability.runbook: {runbook!r} must be docs/runbook.md or its address, http…"
    chart = settings.observability.chart_version
    if not re.fullmatch(r"\d+\.\d+\.\d+", chart):
        yield f"observability.chart_version: {chart!r} must be one exact version, such as 88.5.3"


def _known(settings: Settings) -> Iterator[str]:
    ollama, sizes = settings.ollama, settings.ollama.model_sizes or {}
    named = {f"ollama.models[{i}]": one.name for i, one in enumerate(ollama.models) if not one.base}
    for key, name in (named | {"webui.embedding_model": settings.webui.embedding_model}).items():
        if not (model := catalogue.find(name, sizes)):
            yield (
                f"{key}: {name!r} is not in the catalogue and its name has no size;"
                f" say how large its files are: ollama.model_sizes: {{{name}: 4Gi}}"
            )
        elif _version(model.since) > _version(settings.ollama.image):
            image = settings.ollama.image
            yield f"ollama.image: {image!r} must be {model.since} or newer for {name}"
    for name in sizes:
        if name not in settings.model_set:
            yield f"ollama.model_sizes.{name}: must be one of {', '.join(settings.model_set)}"


def _version(text: str) -> tuple[int, ...]:
    """The first version in `text`, such as that of an image."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def _addresses(settings: Settings) -> Iterator[str]:
    network = settings.network
    try:
        lan = IPv4Network(network.lan)
    except ValueError:
        yield f"network.lan: {network.lan!r} must be a network such as 192.168.1.0/24"
        return
    first, dash, last = network.pool.partition("-")
    if not (dash and _is_address(first) and _is_address(last)):
        yield f"network.pool: {network.pool!r} must be a range: 192.168.1.101-192.168.1.102"
        return
    if IPv4Address(first) > IPv4Address(last):
        yield f"network.pool: {network.pool} runs backwards; it must be {last}-{first}"
    if IPv4Address(first) not in lan or IPv4Address(last) not in lan:
        yield f"network.pool: {network.pool} must lie within network.lan, {lan}"
    taken: dict[str, str] = {}
    for name, node in settings.nodes.items():
        key = f"nodes.{name}.address"
        if not _is_address(node.address) or IPv4Address(node.address) not in lan:
            yield f"{key}: {node.address!r} must be an address within network.lan, {lan}"
        if IPv4Address(first) <= IPv4Address(node.address) <= IPv4Address(last):
            yield f"network.pool: {network.pool} must not contain {node.address}, which {name} has"
        if node.address in taken:
            yield f"{key}: {node.address} must differ from {taken[node.address]}"
        taken[node.address] = key
    for part, address in (
        ("webui", settings.webui.lan_address),
        ("observability", settings.observability.lan_address),
    ):
        if address is None:
            continue
        key = f"{part}.lan_address"
        if not (
            _is_address(address) and IPv4Address(first) <= IPv4Address(address) <= IPv4Address(last)
        ):
            yield f"{key}: {address!r} must be an address of network.pool, {network.pool}"
        if address in taken:
            yield f"{key}: {address} must differ from {taken[address]}"
        taken[address] = key


def _access(settings: Settings) -> Iterator[str]:
    webui = settings.webui
    tailnet = webui.tailnet_address
    if tailnet is not None and not (_is_address(tailnet) and IPv4Address(tailnet) in TAILNET):
        yield (
            f"webui.tailnet_address: {tailnet!r} must be the node's Tailscale address,"
            f" within {TAILNET}"
        )
    # Whoever reaches the page directly could send the header himself and be anyone.
    if webui.trusted_email_header and (webui.lan_address or tailnet):
        yield (
            f"webui.trusted_email_header: {webui.trusted_email_header!r} must not be set together"
            " with lan_address or tailnet_address"
        )
    for index, origin in enumerate(webui.origins or []):
        if "*" in origin:
            yield (
                f"webui.origins[{index}]: {origin!r} must be one name or URL; with * any page that"
                " somebody has open could read and write the chats"
            )
        elif not ORIGIN.fullmatch(origin):
            yield (
                f"webui.origins[{index}]: {origin!r} must be a name such as evo4t.lan, or a URL"
                " such as https://chat.example.org, in lower case, without a path or a usual port"
            )
    if webui.trusted_email_header and not webui.origins:
        yield (
            "webui.origins: missing; with trusted_email_header it must have the URL of the proxy"
        )
    if not (webui.lan_address or tailnet or webui.trusted_email_header):
        yield "webui.lan_address: missing; it must be an address of network.pool"


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
