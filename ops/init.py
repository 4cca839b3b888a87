"""Write a server's stack file from its cluster and the owner's answers.

It changes only that file and, after a confirmation, the volumes' directories on the server.
"""

import argparse
import contextlib
import difflib
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
)
from ruamel.yaml import YAML

from components import CHART_VALUES
from config import Settings, SettingsError, plan, read, requested
from config.quantities import gib, size
from config.stack_file import project_keys, read_config
from ops import machines, stacks
from ops.cluster import Cluster, UnreadableError
from ops.machines import Machine

TEMPLATE = """\
# yaml-language-server: $schema=config/schema.json
# Every key: docs/settings.md
config:
  homelab:context:
  homelab:nodes: {}                 # as `kubectl get nodes` names them
  homelab:network:
    lan:
    pool:                           # outside the router's DHCP range
    metallb:
  homelab:ollama:
    models: []                      # a new chat starts with the first
    volume: {}
  homelab:webui:
    lan_address:
    admin_email:
    memory: {request: 1Gi, limit: 4Gi}
    volume: {}
  homelab:observability:
    lan_address:
    volume: {}
"""
BANDWIDTHS = {
    "DDR4-3200": 51.2,
    "DDR5-4800": 76.8,
    "DDR5-5600": 89.6,
    "LPDDR5X-7500": 120.0,
    "LPDDR5X-8000 with 256 bits": 256.0,
}
"""GB/s of all channels by type of memory: transfers/s times 16 bytes, or 32."""
RESERVED = requested(CHART_VALUES)
OFFERED = ("llama3.2:3b", "gemma3:4b", "codellama:7b", "qwen3:8b", "gpt-oss:20b", "qwen3:32b")
"""Models to offer: a small one, one with vision, one for code, and larger ones."""
SHARES = {"ollama": 0.5, "webui": 0.1, "observability": 0.05}
"""Share of the data disk for each volume; the rest stays free."""
FOLDERS = {"ollama": "models", "webui": "open-webui", "observability": "prometheus"}
OWNERS = {"observability": ("1000:2000", "0770")}
"""Owner and mode of a volume's directory if not `1000:1000`, 0750 (docs/install.md)."""


class Prompt:
    """Asks questions, answered by flags, by the owner, or with `--yes` by the defaults."""

    def __init__(self, flags: Mapping[str, str | None], yes: bool) -> None:
        self._flags, self.yes = flags, yes

    def __call__(
        self, key: str, question: str, default: str, check: Callable[[str], object] = str
    ) -> str:
        """Return an answer for which `check` does not raise; raises ValueError for a flag."""
        if (flag := self._flags.get(key)) is not None:
            check(flag)
            return flag
        if self.yes and default:
            check(default)
            return default
        if self.yes or not sys.stdin.isatty():
            raise ValueError(f"--{key.replace('_', '-')}: missing; {question}")
        while True:
            answer = input(f"{question} [{default}] " if default else f"{question} ").strip()
            answer = answer or default
            try:
                check(answer)
            except ValueError as error:
                print(f"  {error}")
                continue
            return answer

    def confirm(self, question: str) -> bool:
        """Return the answer to a yes-or-no question."""
        if self.yes:
            return True
        return sys.stdin.isatty() and input(f"{question} [Y/n] ").strip().lower() in (
            "",
            "y",
            "yes",
        )


def inspect(api: ApiClient, nodes: list[Machine], prompt: Prompt) -> list[Machine]:
    """Run a Job on each machine, after showing it; returns the machines with what it printed."""
    print("To find disks and addresses, a Job runs once on each node, as root, and is deleted:\n")
    YAML().dump(machines.look_job(nodes[0]), sys.stdout)
    if not prompt.confirm("Run it?"):
        print("These commands print the answers to the questions below, on each node:")
        print("  findmnt --real --bytes; ip -4 route; ip -4 address; tailscale ip -4\n")
        return nodes
    inspected = []
    for machine in nodes:
        try:
            log = machines.run(api, machines.look_job(machine))
            inspected.append(machines.parse_log(machine, log))
        except UnreadableError as error:
            print(f"  {machine.name}: not inspected: {error}")
            inspected.append(machine)
    return inspected


def describe(machine: Machine) -> str:
    """Return a line about a machine's capacity."""
    parts = [f"{machine.cpus} cpus", gib(machine.memory), *machine.gpus]
    parts += [f"{disk.path} {gib(disk.size)}" for disk in machine.disks]
    parts += [f"tailnet {machine.tailnet}"] if machine.tailnet else []
    return f"  {machine.name} ({machine.address}): {', '.join(parts)}"


def _gi(bytes_: float) -> str:
    return f"{int(bytes_ // 1024**3)}Gi"


def _check_size(text: str) -> None:
    size(text)


def _check_email(text: str) -> None:
    if "@" not in text:
        raise ValueError(f"got {text!r}, want an e-mail address, such as me@example.com")


def _check_memory(text: str) -> None:
    if text not in BANDWIDTHS and text != "unknown":
        raise ValueError(f"got {text!r}, want {', '.join(BANDWIDTHS)} or unknown")


def _check_pair(text: str) -> None:
    with contextlib.suppress(ValueError):
        first, last = map(IPv4Address, text.split("-"))
        if int(last) - int(first) == 1:
            return
    want = "two consecutive addresses, such as 192.168.1.101-192.168.1.102"
    raise ValueError(f"got {text!r}, want {want}")


def draft(
    context: str, nodes: list[Machine], addon: bool, old: Mapping[str, Any], prompt: Prompt
) -> dict[str, Any]:
    """Return the keys of the stack file, from the machines, the answers and its `old` keys."""
    first = nodes[0]
    node_keys = {
        machine.name: _node(machine, _object(old, "nodes", machine.name), prompt)
        for machine in nodes
    }
    default = str(first.lan or f"{first.address.rpartition('.')[0]}.0/24")
    network = _object(old, "network")
    network["lan"] = prompt("lan", "The home network?", network.get("lan", default))
    network.setdefault("metallb", "addon" if addon else "helm")
    page: dict[str, str] = {}
    grafana: dict[str, str] = {}
    # An existing pool may have more than two addresses.
    if "pool" not in network:
        pair = ""
        if first.lan and first.taken is not None:
            pair = "-".join(machines.free_pair(first.lan, first.address, first.taken) or ())
        question = "Two free neighbouring addresses, outside the router's DHCP range?"
        network["pool"] = prompt("pool", question, pair, _check_pair)
        page["lan_address"], grafana["lan_address"] = network["pool"].split("-")
    email = _object(old, "webui").get("admin_email", "")
    email = prompt("email", "Your e-mail address, to sign in with?", email, _check_email)
    disk = node_keys[first.name]["disk"]

    def volume(workload: str) -> dict[str, str]:
        path = f"{disk['path'].rstrip('/')}/{FOLDERS[workload]}"
        new = {"path": path, "size": _gi(size(disk["size"]) * SHARES[workload])}
        return {**new, **_object(old, workload, "volume")}

    tailnet = {"tailnet_address": first.tailnet} if first.tailnet else {}
    keys: dict[str, Any] = {
        "context": context,
        "nodes": node_keys,
        "network": network,
        "ollama": {**_object(old, "ollama"), "volume": volume("ollama")},
        **({"servers": old["servers"]} if "servers" in old else {}),
        "webui": {
            "memory": {"request": "1Gi", "limit": "4Gi"},
            **_object(old, "webui"),
            **page,
            **tailnet,
            "admin_email": email,
            "volume": volume("webui"),
        },
        "observability": {
            **_object(old, "observability"),
            **grafana,
            "volume": volume("observability"),
        },
    }
    if not _object(old, "webui", "backup"):
        others = [other.path for other in first.disks if other.path not in ("/", disk["path"])]
        question = "A second disk for backups of the chats, or none?"
        if (path := prompt("backup_disk", question, (others or ["none"])[0])) != "none":
            sizes = {disk.path: _gi(disk.size) for disk in first.disks}
            path = path.rstrip("/")
            backup = {"path": f"{path}/homelab", "size": sizes.get(path, "200Gi")}
            keys["webui"]["backup"] = {"volume": backup}
    keys["ollama"]["models"] = _models(keys, prompt)
    return keys


def _object(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the object at a path of keys; empty if there is none."""
    value: Any = keys
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _node(machine: Machine, old: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys of a node."""
    path = _object(old, "disk").get("path") or next((disk.path for disk in machine.disks), "")
    path = prompt("disk", f"{machine.name}: where is its data disk mounted?", path)
    capacity = next((_gi(disk.size) for disk in machine.disks if disk.path == path), "")
    if not capacity:
        default = _object(old, "disk").get("size", "")
        question = f"{machine.name}: how large is {path}?"
        capacity = prompt("disk_size", question, default, _check_size)
    node = {
        **old,
        "address": machine.address,
        "cpus": machine.cpus,
        "memory": _gi(machine.memory),
        "disk": {"path": path, "size": capacity},
    }
    if "memory_bandwidth" not in old:
        question = f"{machine.name}: which memory? {', '.join(BANDWIDTHS)}, or unknown?"
        memory = prompt("memory_kind", question, "unknown", _check_memory)
        if memory in BANDWIDTHS:
            node["memory_bandwidth"] = BANDWIDTHS[memory]
    return node


def _models(keys: Mapping[str, Any], prompt: Prompt) -> list[Any]:
    """Return the chosen models, of those that each fit alone by the capacity plan."""

    def validate(text: str) -> Settings:
        names = [name.strip() for name in text.split(",")]
        return read({**keys, "ollama": {**keys["ollama"], "models": names}}, RESERVED)

    if declared := keys["ollama"].get("models"):
        return list(declared)
    print("Models that fit, each alone, with the tokens/s that the memory bandwidth allows:")
    fitting = []
    for name in OFFERED:
        with contextlib.suppress(SettingsError):
            (model, *_) = plan(validate(name), RESERVED)["ollama"].models
            speed = f"at most {model.ceiling:.0f} tokens/s" if model.ceiling else "tokens/s unknown"
            print(f"  {name:14} {gib(model.shape.size):>9}, {speed}")
            fitting.append(name)
    if not fitting:
        validate(OFFERED[0])
    chosen = prompt("models", "Which, separated by commas?", ",".join(fitting[:3]), validate)
    return [name.strip() for name in chosen.split(",")]


def merge(text: str, keys: Mapping[str, Any]) -> str:
    """Return the stack file `text` with these keys; its comments and other keys stay."""
    parser = YAML()
    parser.width = 120
    parser.indent(mapping=2, sequence=4, offset=2)
    document = parser.load(text)
    _update(document["config"], {f"homelab:{key}": value for key, value in keys.items()})
    output = io.StringIO()
    parser.dump(document, output)
    return output.getvalue()


def _update(document: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _update(document[key], value)
        elif document.get(key) != value:
            document[key] = value


def check(text: str) -> Settings:
    """Validate a stack file's text; raises SettingsError, a line for each invalid key."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Pulumi.yaml")
        file.write_text(text)
        return read(project_keys(read_config(file)), RESERVED)


def next_steps(stack: str) -> str:
    """Return the next commands to run."""
    return "\n".join(
        [
            "next:",
            f"  pulumi stack init {stack}      # once; asks for a passphrase (docs/install.md)",
            f"  make doctor STACK={stack}",
            f"  make up STACK={stack}",
        ]
    )


def has_metallb(cluster: Cluster) -> bool:
    """Return whether MetalLB is installed as MicroK8s' addon, not by Helm."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    pools = cluster.ask(f"{definitions}/ipaddresspools.metallb.io")
    annotations = (pools or {}).get("metadata", {}).get("annotations") or {}
    return bool(pools) and "meta.helm.sh/release-name" not in annotations


def directories(nodes: list[Machine], settings: Settings, api: ApiClient, prompt: Prompt) -> None:
    """Create the volumes' directories on each disk by a Job, after a confirmation."""
    for machine in nodes:
        disk = settings.nodes[machine.name].disk.path
        disks: dict[str, dict[str, tuple[str, str]]] = {disk: {}}
        for key, workload in settings.workloads.items():
            if settings.node_of(workload) == machine.name:
                owner = OWNERS.get(key, ("1000:1000", "0750"))
                disks[disk][workload.volume.path] = owner
                if key in settings.model_servers:
                    disks[disk][f"{workload.volume.path}/homelab"] = owner
        if (backup := settings.webui.backup) and settings.node_of(settings.webui) == machine.name:
            path = PurePosixPath(backup.volume.path)
            mounted = {other.path for other in machine.disks} - {"/"}
            # The nearest mount; if none is known, the Job refuses a parent that is not mounted.
            parents = map(str, path.parents)
            disk = next((parent for parent in parents if parent in mounted), str(path.parent))
            disks[disk] = {str(path): ("1000:1000", "0700")}
        for disk, owners in disks.items():
            if owners:
                _make(machine, disk, owners, api, prompt)


def _make(
    machine: Machine,
    disk: str,
    owners: Mapping[str, tuple[str, str]],
    api: ApiClient,
    prompt: Prompt,
) -> None:
    """Create directories on a disk by a Job, after a confirmation."""
    print(f"\n{machine.name}: directories of the volumes, if {disk} is mounted;")
    print("existing files in them get the same owner (docs/moving-in.md):")
    print("".join(f"  {path} {' '.join(owner)}\n" for path, owner in owners.items()))
    if prompt.confirm("Make them, by a Job as before?"):
        try:
            print(machines.run(api, machines.directories_job(machine, disk, owners)))
        except UnreadableError as error:
            print(f"  not created: {error}; by hand: docs/install.md")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="home", help="the stack, of Pulumi.STACK.yaml")
    parser.add_argument("--context", help="the kubeconfig's context; default: the current one")
    parser.add_argument("--yes", action="store_true", help="take every default without asking")
    for key in (
        "disk",
        "disk-size",
        "memory-kind",
        "lan",
        "pool",
        "email",
        "backup-disk",
        "models",
    ):
        parser.add_argument(f"--{key}", help="the answer to that question")


def run(options: argparse.Namespace) -> int:
    """Ask, show the stack file, write it, and return the exit code."""
    try:
        return _run(options, Prompt(vars(options), options.yes))
    except (UnreadableError, SettingsError, ValueError, EOFError) as error:
        print(f"error: {error or 'no answer'}; nothing was written", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, prompt: Prompt) -> int:
    file = stacks.PROJECT / f"Pulumi.{options.stack}.yaml"
    before = file.read_text() if file.exists() else ""
    old = project_keys(read_config(file)) if before else {}
    try:
        current = list_kube_config_contexts()[1]  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise UnreadableError(f"kubeconfig: {error}") from error
    context = options.context or old.get("context") or current["name"]
    cluster = Cluster(context)
    nodes = machines.from_nodes(cluster.ask("/api/v1/nodes")["items"])
    if not nodes:
        raise UnreadableError(f"context {context}: got no nodes, want one or more")
    print(f"context {context}: nodes {', '.join(machine.name for machine in nodes)}")
    nodes = inspect(cluster.api, nodes, prompt)
    print("\n".join(map(describe, nodes)))
    keys = draft(context, nodes, has_metallb(cluster), old, prompt)
    text = merge(before or TEMPLATE, keys)
    settings = check(text)
    changes = [*difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=1)]
    if not changes:
        print(f"{file.name}: nothing to change")
    elif before:
        print("\n".join(changes[2:]))
    else:
        print(text)
    if changes and not prompt.confirm(f"Write {file.name}?"):
        print("nothing was written")
        return 1
    if changes:
        file.write_text(text)
    directories(nodes, settings, cluster.api, prompt)
    print(next_steps(options.stack))
    return 0
