"""Write the stack file of a server: asks the cluster what it is, and the owner what it cannot say.

Nothing is changed but the file, and on the server the directories of the volumes, if confirmed.
"""

import argparse
import contextlib
import difflib
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    new_client_from_config,
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
"""GB/s by kind of memory, all of its channels together: transfers times 16 bytes, or 32."""
RESERVED = requested(CHART_VALUES)
FIRST = ("llama3.2:3b", "gemma3:4b", "codellama:7b", "qwen3:8b", "gpt-oss:20b", "qwen3:32b")
"""Models to offer: a small one, one that reads pictures, one for code, and larger ones."""
SHARES = {"ollama": 0.5, "webui": 0.1, "observability": 0.05}
"""Of the data disk, for the volume of each part; the rest stays free."""
FOLDERS = {"ollama": "models", "webui": "open-webui", "observability": "prometheus"}
OWNERS = {"observability": ("1000:2000", "0770")}
"""Owner and mode of a volume's directory where it is not `1000:1000`, 0750 (docs/install.md)."""


class Asking:
    """The questions: answered by a flag, by the owner, or with `--yes` by the default."""

    def __init__(self, given: Mapping[str, str | None], yes: bool) -> None:
        self._given, self.yes = given, yes

    def __call__(
        self, key: str, question: str, default: str, check: Callable[[str], object] = str
    ) -> str:
        """Give the answer that `check` does not refuse; raises ValueError if a flag's is wrong."""
        if (given := self._given.get(key)) is not None:
            check(given)
            return given
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

    def agrees(self, question: str) -> bool:
        """Ask for yes or no."""
        if self.yes:
            return True
        return sys.stdin.isatty() and input(f"{question} [Y/n] ").strip().lower() in (
            "",
            "y",
            "yes",
        )


def look(api: ApiClient, found: list[Machine], asking: Asking) -> list[Machine]:
    """Look at each machine by a Job that is shown first; one that cannot be is as it was."""
    print("To see disks and addresses, a Job runs once on each node, as root, and is deleted:\n")
    YAML().dump(machines.look_job(found[0]), sys.stdout)
    if not asking.agrees("Run it?"):
        print("Then these say what is asked for below, on each node:")
        print("  findmnt --real --bytes; ip -4 route; ip -4 address; tailscale ip -4\n")
        return found
    looked = []
    for machine in found:
        try:
            log = machines.run(api, machines.look_job(machine), print)
            looked.append(machines.seen(machine, log))
        except UnreadableError as error:
            print(f"  {machine.name}: not looked at: {error}")
            looked.append(machine)
    return looked


def describe(machine: Machine) -> str:
    """Say in a line what a machine has."""
    parts = [f"{machine.cpus} cpus", gib(machine.memory), *machine.gpus]
    parts += [f"{disk.path} {gib(disk.size)}" for disk in machine.disks]
    parts += [f"tailnet {machine.tailnet}"] if machine.tailnet else []
    return f"  {machine.name} ({machine.address}): {', '.join(parts)}"


def _gi(bytes_: float) -> str:
    return f"{int(bytes_ // 1024**3)}Gi"


def _is_size(text: str) -> None:
    size(text)


def _is_email(text: str) -> None:
    if "@" not in text:
        raise ValueError(f"got {text!r}, want an e-mail address, such as me@example.com")


def _is_kind(text: str) -> None:
    if text not in BANDWIDTHS and text != "unknown":
        raise ValueError(f"got {text!r}, want {', '.join(BANDWIDTHS)} or unknown")


def _is_pair(text: str) -> None:
    with contextlib.suppress(ValueError):
        first, last = map(IPv4Address, text.split("-"))
        if int(last) - int(first) == 1:
            return
    raise ValueError(f"got {text!r}, want two neighbours, such as 192.168.1.101-192.168.1.102")


def draft(
    context: str, found: list[Machine], addon: bool, was: Mapping[str, Any], asking: Asking
) -> dict[str, Any]:
    """Give the keys of the stack file, by what was seen and answered; `was` are those it has."""
    first = found[0]
    nodes = {
        machine.name: _node(machine, _in(was, "nodes", machine.name), asking) for machine in found
    }
    guess = str(first.lan or f"{first.address.rpartition('.')[0]}.0/24")
    network = _in(was, "network")
    network["lan"] = asking("lan", "The home network?", network.get("lan", guess))
    network.setdefault("metallb", "addon" if addon else "helm")
    page: dict[str, str] = {}
    grafana: dict[str, str] = {}
    # A pool that is there may have more addresses than two.
    if "pool" not in network:
        pair = ""
        if first.lan and first.taken is not None:
            pair = "-".join(machines.free_pair(first.lan, first.address, first.taken))
        question = "Two free neighbouring addresses, outside the router's DHCP range?"
        network["pool"] = asking("pool", question, pair, _is_pair)
        page["lan_address"], grafana["lan_address"] = network["pool"].split("-")
    email = _in(was, "webui").get("admin_email", "")
    email = asking("email", "Your e-mail address, to sign in with?", email, _is_email)
    disk = nodes[first.name]["disk"]

    def volume(part: str) -> dict[str, str]:
        path = f"{disk['path'].rstrip('/')}/{FOLDERS[part]}"
        room = {"path": path, "size": _gi(size(disk["size"]) * SHARES[part])}
        return {**room, **_in(was, part, "volume")}

    tailnet = {"tailnet_address": first.tailnet} if first.tailnet else {}
    keys: dict[str, Any] = {
        "context": context,
        "nodes": nodes,
        "network": network,
        "ollama": {**_in(was, "ollama"), "volume": volume("ollama")},
        **({"servers": was["servers"]} if "servers" in was else {}),
        "webui": {
            "memory": {"request": "1Gi", "limit": "4Gi"},
            **_in(was, "webui"),
            **page,
            **tailnet,
            "admin_email": email,
            "volume": volume("webui"),
        },
        "observability": {
            **_in(was, "observability"),
            **grafana,
            "volume": volume("observability"),
        },
    }
    if not _in(was, "webui", "backup"):
        others = [one.path for one in first.disks if one.path not in ("/", disk["path"])]
        question = "A second disk for backups of the chats, or none?"
        if (path := asking("backup_disk", question, (others or ["none"])[0])) != "none":
            backup = {"path": f"{path.rstrip('/')}/homelab", "size": "200Gi"}
            keys["webui"]["backup"] = {"volume": backup}
    keys["ollama"]["models"] = _models(keys, asking)
    return keys


def _in(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Give the object at a path of keys; empty if there is none."""
    value: Any = keys
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _node(machine: Machine, was: Mapping[str, Any], asking: Asking) -> dict[str, Any]:
    """Give the keys of one node."""
    path = _in(was, "disk").get("path") or next((disk.path for disk in machine.disks), "")
    path = asking("disk", f"{machine.name}: where is its data disk mounted?", path)
    room = next((_gi(disk.size) for disk in machine.disks if disk.path == path), "")
    if not room:
        room = _in(was, "disk").get("size", "")
        room = asking("disk_size", f"{machine.name}: how large is {path}?", room, _is_size)
    node = {
        **was,
        "address": machine.address,
        "cpus": machine.cpus,
        "memory": _gi(machine.memory),
        "disk": {"path": path, "size": room},
    }
    if "memory_bandwidth" not in was:
        question = f"{machine.name}: which memory? {', '.join(BANDWIDTHS)}, or unknown?"
        kind = asking("memory_kind", question, "unknown", _is_kind)
        if kind in BANDWIDTHS:
            node["memory_bandwidth"] = BANDWIDTHS[kind]
    return node


def _models(keys: Mapping[str, Any], asking: Asking) -> list[Any]:
    """Offer the models that fit, each by itself, with what the capacity plan says of it."""

    def fits(text: str) -> Settings:
        names = [name.strip() for name in text.split(",")]
        return read({**keys, "ollama": {**keys["ollama"], "models": names}}, RESERVED)

    if has := keys["ollama"].get("models"):
        return list(has)
    print("Models that fit, each by itself, with the tokens/s that the memory allows:")
    fitting = []
    for name in FIRST:
        with contextlib.suppress(SettingsError):
            (line, *_) = plan(fits(name), RESERVED)["ollama"].models
            speed = f"at most {line.ceiling:.0f} tokens/s" if line.ceiling else "tokens/s unknown"
            print(f"  {name:14} {gib(line.shape.size):>9}, {speed}")
            fitting.append(name)
    if not fitting:
        fits(FIRST[0])
    chosen = asking("models", "Which, separated by commas?", ",".join(fitting[:3]), fits)
    return [name.strip() for name in chosen.split(",")]


def merged(text: str, keys: Mapping[str, Any]) -> str:
    """Give the stack file `text` with these values and its comments, and all other keys kept."""
    parser = YAML()
    parser.width = 120
    parser.indent(mapping=2, sequence=4, offset=2)
    document = parser.load(text)
    _update(document["config"], {f"homelab:{key}": value for key, value in keys.items()})
    out = io.StringIO()
    parser.dump(document, out)
    return out.getvalue()


def _update(document: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _update(document[key], value)
        elif document.get(key) != value:
            document[key] = value


def check(text: str) -> Settings:
    """Read a stack file as `up` does; raises SettingsError, a line for each wrong key."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Pulumi.yaml")
        file.write_text(text)
        return read(project_keys(read_config(file)), RESERVED)


def next_steps(stack: str) -> str:
    """Give the commands that follow."""
    return "\n".join(
        [
            "next:",
            f"  pulumi stack init {stack}      # once; asks for a passphrase (docs/install.md)",
            f"  make doctor STACK={stack}",
            f"  make up STACK={stack}",
        ]
    )


def has_metallb(cluster: Cluster) -> bool:
    """Say whether MetalLB is there and no release of Helm's: MicroK8s' addon."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    pools = cluster.ask(f"{definitions}/ipaddresspools.metallb.io")
    annotations = (pools or {}).get("metadata", {}).get("annotations") or {}
    return bool(pools) and "meta.helm.sh/release-name" not in annotations


def directories(found: list[Machine], settings: Settings, api: ApiClient, asking: Asking) -> None:
    """Make the volumes' directories on each node, by a Job, if that is confirmed."""
    for machine in found:
        node, wanted = settings.nodes[machine.name], {}
        for name, part in settings.workloads.items():
            if settings.node_of(part) == machine.name:
                owner = OWNERS.get(name, ("1000:1000", "0750"))
                wanted[part.volume.path] = owner
                if name in settings.model_servers:
                    wanted[f"{part.volume.path}/homelab"] = owner
        if not wanted:
            continue
        body = machines.directories_job(machine, node.disk.path, wanted)
        print(f"\n{machine.name}: directories for the volumes, if {node.disk.path} is mounted:")
        print("".join(f"  {path} {' '.join(owner)}\n" for path, owner in wanted.items()))
        if asking.agrees("Make them, by a Job as before?"):
            try:
                print(machines.run(api, body, print).rstrip())
            except UnreadableError as error:
                print(f"  not made: {error}; by hand: docs/install.md")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="home", help="whose file: Pulumi.STACK.yaml")
    parser.add_argument("--context", help="of the kubeconfig; the current one if not given")
    parser.add_argument("--yes", action="store_true", help="take every default, ask nothing")
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
    """Ask, show what would be written, write it, and give the exit code."""
    try:
        return _run(options, Asking(vars(options), options.yes))
    except (UnreadableError, SettingsError, ValueError, EOFError) as error:
        print(f"error: {error or 'no answer'}; nothing was written", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, asking: Asking) -> int:
    file = stacks.PROJECT / f"Pulumi.{options.stack}.yaml"
    before = file.read_text() if file.exists() else ""
    was = project_keys(read_config(file)) if before else {}
    try:
        current = list_kube_config_contexts()[1]  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise UnreadableError(f"kubeconfig: {error}") from error
    context = options.context or was.get("context") or current["name"]
    cluster = Cluster(context)
    nodes = cluster.ask("/api/v1/nodes")["items"]
    found = machines.of_nodes(nodes)
    if not found:
        raise UnreadableError(f"context {context}: got no nodes, want one or more")
    print(f"context {context}: nodes {', '.join(machine.name for machine in found)}")
    api: Any = new_client_from_config(context=context)  # type: ignore[no-untyped-call]
    found = look(api, found, asking)
    print("\n".join(map(describe, found)))
    keys = draft(context, found, has_metallb(cluster), was, asking)
    text = merged(before or TEMPLATE, keys)
    settings = check(text)
    changes = [*difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=1)]
    if not changes:
        print(f"{file.name}: nothing to change")
    elif before:
        print("\n".join(changes[2:]))
    else:
        print(text)
    if changes and not asking.agrees(f"Write {file.name}?"):
        print("nothing was written")
        return 1
    if changes:
        file.write_text(text)
    directories(found, settings, api, asking)
    print(next_steps(options.stack))
    return 0
