"""Keys of a stack file, from the machines, the answers and the keys it had."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from config import Settings, SettingsError, plan
from config.quantities import gib, size
from config.settings import Directory, Email, Lan, TimeZone
from ops import init_questions, machines
from ops.init_file import RESERVED, validate
from ops.init_questions import BANDWIDTHS, Prompt
from ops.machines import Machine

OFFERED = ("llama3.2:3b", "gemma3:4b", "codellama:7b", "qwen3:8b", "gpt-oss:20b", "qwen3:32b")
"""Models to offer: a small one, one with vision, one for code, and larger ones."""
SHARES = {"ollama": 0.5, "webui": 0.1, "observability": 0.05}
"""Share of the data disk for each volume; the rest stays free."""
FOLDERS = {"ollama": "models", "webui": "open-webui", "observability": "prometheus"}


def draft(
    context: str, nodes: list[Machine], addon: bool, old: Mapping[str, Any], prompt: Prompt
) -> dict[str, Any]:
    """Return the keys of the stack file, from the machines, the answers and its `old` keys.

    New volumes are on the first node of the file, or else the first of `nodes`.
    """
    names = [*_object(old, "nodes")]
    nodes = sorted(nodes, key=lambda it: names.index(it.name) if it.name in names else len(names))
    first = nodes[0]
    missing = sorted(_object(old, "nodes").keys() - {machine.name for machine in nodes})
    question = f"{', '.join(missing)}: in the file, but not in the cluster. Drop or keep?"
    choice = init_questions.choice("drop", "keep")
    drop = not missing or prompt("missing_nodes", question, "drop", choice) == "drop"
    node_keys = {} if drop else {name: old["nodes"][name] for name in missing}
    profile = prompt.flags.get("profile")
    if profile not in (None, "cpu") and not any(machine.gpus for machine in nodes):
        raise ValueError(
            f"--profile: got {profile!r}, want cpu: no node offers a GPU (docs/gpu.md)"
        )
    for machine in nodes:
        node_keys[machine.name] = _node(machine, _object(old, "nodes", machine.name), prompt)
    webui, observability = _object(old, "webui"), _object(old, "observability")

    def node(workload: str) -> str:
        name = _object(old, workload).get("node")
        return name if name in node_keys else first.name

    # Of a node that is only in the file, no address is known.
    host = next((it for it in nodes if it.name == node("webui")), replace(first, tailnet=None))
    network = _network(first, _object(old, "network"), prompt)
    network.setdefault("metallb", "addon" if addon else "helm")
    page, grafana = {}, {}
    if network["pool"] != _object(old, "network").get("pool"):
        page["lan_address"], grafana["lan_address"] = init_questions.first_two(network["pool"])
    email = prompt(
        "email",
        "Your e-mail address, to sign in to the chat page?",
        "admin@homelab.home.arpa",
        init_questions.of(Email),
        webui.get("admin_email"),
    )

    def volume(workload: str) -> dict[str, str]:
        disk = node_keys[node(workload)]["disk"]
        top = f"{disk['path'].rstrip('/')}/"
        new = {"path": top + FOLDERS[workload], "size": _gi(size(disk["size"]) * SHARES[workload])}
        volume = _object(old, workload, "volume")
        return {**new, **volume} if volume.get("path", "").startswith(top) else new

    # Who has removed it uses `tailscale serve` (docs/install.md#https-and-phones).
    if host.tailnet and (not webui or "tailnet_address" in webui):
        page["tailnet_address"] = host.tailnet
    keys: dict[str, Any] = {
        "context": context,
        "nodes": node_keys,
        "network": network,
        "ollama": {**_object(old, "ollama"), "volume": volume("ollama")},
        **({"servers": old["servers"]} if "servers" in old else {}),
        "webui": {
            "memory": {"request": "1Gi", "limit": "4Gi"},
            **webui,
            **page,
            "admin_email": email,
            "volume": volume("webui"),
        },
        "observability": {**observability, **grafana, "volume": volume("observability")},
    }
    # With the default, 8, all requests need 10 (config/checks.py).
    if not old.get("ollama") and (cpus := node_keys[node("ollama")]["cpus"]) < 10:
        keys["ollama"]["cpu"] = max(1, cpus - 2)
    for section in FOLDERS:
        if len(node_keys) > 1 or "node" in keys[section]:
            keys[section]["node"] = node(section)
    data = node_keys[node("webui")]["disk"]["path"]
    for section, key, value in (
        ("webui", "backup", _backup(host, data, webui, prompt)),
        ("observability", "notify", _notify(observability, prompt)),
    ):
        keys[section].pop(key, None)
        if value:
            keys[section][key] = value
    keys["ollama"]["models"] = _models(keys, prompt)
    return keys


def _network(machine: Machine, old: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys of the home network; old ones without the machine's address are replaced."""
    default = str(machine.lan or f"{machine.address.rpartition('.')[0]}.0/24")
    lan = old.get("lan") if _is_within(machine.address, str(old.get("lan"))) else None
    question = f"The home network, with {machine.address}?"
    lan = prompt("lan", question, default, init_questions.of(Lan), lan)
    pair: tuple[str, ...] | None = None
    if machine.lan and machine.taken is not None:
        pair = machines.free_pair(machine.lan, machine.address, machine.taken)
    question = "Two addresses for chat page and Grafana, free and outside the router's DHCP range?"
    pool = old.get("pool") if _is_within(str(old.get("pool")), lan) else None
    pool = prompt("pool", question, "-".join(pair or ()), init_questions.first_two, pool)
    return {**old, "lan": lan, "pool": pool}


def _is_within(text: str, network: str) -> bool:
    """Return whether all addresses of a range are in a network; False if one is invalid."""
    try:
        return all(IPv4Address(part) in IPv4Network(network) for part in text.split("-"))
    except ValueError:
        return False


def _backup(
    machine: Machine, data: str, webui: Mapping[str, Any], prompt: Prompt
) -> dict[str, Any]:
    """Return `webui.backup` on a second disk; empty for no backups."""
    backup = _object(webui, "backup")
    old: str | None = _object(backup, "volume").get("path")
    others = [disk.path for disk in machine.disks if disk.path not in ("/", data)]
    choices = ", ".join(others) or "a mount point"
    question = f"Disk for backups of the chats: {choices} or none?"
    # A file that exists has answered with "none" before.
    old = old or ("none" if webui else None)
    path = prompt("backup_disk", question, [*others, "none"][0], old=old).rstrip("/")
    if path in (old, "none"):
        return backup if path == old else {}
    sizes = {disk.path: _gi(disk.size) for disk in machine.disks}
    return {**backup, "volume": {"path": f"{path}/homelab", "size": sizes.get(path, "200Gi")}}


def _notify(observability: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return `observability.notify`; empty if alerts reach nobody."""
    old = _object(observability, "notify")
    question = f"Alerts by {init_questions.RECEIVERS}?"
    # A file that exists has answered before.
    asked = "" if observability else None
    answer = prompt("alerts", question, "none", init_questions.receiver, asked)
    if not answer:
        return old
    if not (receiver := init_questions.receiver(answer)):
        return {}
    question = "Your time zone? (Warnings are sent from 8:00 to 22:00 only.)"
    zone = prompt(
        "timezone",
        question,
        init_questions.local_time_zone(),
        init_questions.of(TimeZone),
        old.get("timezone"),
    )
    heartbeat = {"heartbeat": old["heartbeat"]} if "heartbeat" in old else {}
    return {**receiver, **heartbeat, "timezone": zone}


def _node(machine: Machine, old: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys of a node."""
    name, disk = machine.name, _object(old, "disk")
    paths = [other.path for other in machine.disks if other.path != "/"]
    question = f"{name}: the data disk, by its mount point?"
    check = init_questions.of(Directory)
    path = prompt("disk", question, next(iter(paths), ""), check, disk.get("path"))
    known = disk.get("size") if path == disk.get("path") else None
    known = next((_gi(other.size) for other in machine.disks if other.path == path), known)
    capacity = prompt("disk_size", f"{name}: the size of {path}?", "", size, known)
    node = {
        **old,
        "address": machine.address,
        "cpus": machine.cpus,
        "memory": _gi(machine.memory),
        "disk": {"path": path, "size": capacity},
    }
    question = f"{name}: type of its memory, for tokens/s, such as {[*BANDWIDTHS][1]}, or unknown?"
    kind = init_questions.choice(*BANDWIDTHS, "unknown")
    # Of a node in the file it was asked before.
    asked = "" if old else None
    if (memory := prompt("memory_kind", question, "unknown", kind, asked)) in BANDWIDTHS:
        node["memory_bandwidth"] = BANDWIDTHS[memory]
    return {**node, **_gpu(machine, old, prompt)}


def _gpu(machine: Machine, old: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys for models on a GPU that a device plugin offers; empty without one."""
    if not machine.gpus:
        return {}
    device = machine.gpus[0]
    if not (machine.gpu_memory and machine.gpu_groups):
        print(
            f"  {machine.name}: {device}: its memory is not known, so it is not used (docs/gpu.md)"
        )
        return {}
    profile = machines.DEVICES[device]
    question = f"{machine.name} has {device}: models on it with {profile}, or on the cpu?"
    choice = init_questions.choice(profile, "cpu")
    if (answer := prompt("profile", question, profile, choice, old.get("profile"))) == "cpu":
        return {"profile": "cpu"}
    gpu = {"memory": _gi(machine.gpu_memory), "groups": [*machine.gpu_groups]}
    return {"profile": answer, "gpu": {**gpu, **_object(old, "gpu")}}


def _models(keys: Mapping[str, Any], prompt: Prompt) -> list[Any]:
    """Return the chosen models, of those that each fit alone by the capacity plan."""

    def with_models(text: str) -> Settings:
        names = [name.strip() for name in text.split(",")]
        return validate({**keys, "ollama": {**keys["ollama"], "models": names}})

    declared = keys["ollama"].get("models")
    if declared and prompt.flags.get("models") is None:
        return list(declared)
    print("Models that fit alone, and the most tokens/s that the memory bandwidth allows:")
    fitting = []
    for name in OFFERED:
        with contextlib.suppress(SettingsError):
            (model, *_) = plan(with_models(name), RESERVED).servers["ollama"].models
            speed = f"{model.ceiling:.0f}" if model.ceiling else "?"
            print(f"  {name:14}{gib(model.shape.size):>9}{speed:>5} tokens/s")
            fitting.append(name)
    if not fitting:
        with_models(OFFERED[0])
    question = "Models to pull, separated by commas; a new chat starts with the first?"
    chosen = prompt("models", question, ",".join(fitting[:3]), with_models)
    return [name.strip() for name in chosen.split(",")]


def _object(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the object at a path of keys; empty if there is none."""
    value: Any = keys
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _gi(bytes_: float) -> str:
    return f"{int(bytes_ // 1024**3)}Gi"
