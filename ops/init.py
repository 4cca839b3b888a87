"""Write a server's stack file from its cluster and the owner's answers.

Changes only that file and, after a confirmation, the volumes' directories on the server. A question
that the file answers is not asked again.
"""

import argparse
import contextlib
import difflib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path, PurePosixPath
from typing import Any
from zoneinfo import available_timezones

from kubernetes.client import ApiClient
from kubernetes.config import ConfigException, list_kube_config_contexts
from pydantic import ValidationError
from ruamel.yaml import YAML

from components import CHART_VALUES
from config import Settings, SettingsError, plan, read, requested
from config.errors import PREFIX, SECRET
from config.quantities import gib, size
from config.settings import Notify
from config.stack_file import project_keys, read_config
from config.versions import RESTIC_IMAGE
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


QUESTIONS = (
    *("missing-nodes", "disk", "disk-size", "memory-kind", "profile", "lan", "pool", "email"),
    *("backup-disk", "alerts", "timezone", "models"),
)
"""Options, each the answer to a question."""


class Prompt:
    """Asks questions, answered by flags, by the stack file, by the owner or by the defaults."""

    def __init__(self, flags: Mapping[str, str | None], yes: bool) -> None:
        """Use `flags` by name of a question; with `yes`, the defaults answer the other ones."""
        self._flags, self.yes = flags, yes

    def __call__(
        self,
        key: str,
        question: str,
        default: str,
        check: Callable[[str], object] = str,
        old: str | None = None,
    ) -> str:
        """Return the flag, or `old` if it is not None, or an answer for which `check` is silent.

        Raises ValueError for an invalid flag, and if nobody can be asked.
        """
        name, flag = f"--{key.replace('_', '-')}", self._flags.get(key)
        if flag is None and old is not None:
            return old
        if flag is not None or (self.yes and default):
            answer = default if flag is None else flag
            try:
                check(answer)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            return answer
        if self.yes or not sys.stdin.isatty():
            raise ValueError(f"{name}: missing; {question}")
        while True:
            answer = input(f"{question} [{default}] " if default else f"{question} ").strip()
            answer = answer or default
            try:
                check(answer)
            except ValueError as error:
                print(f"  {error}")
                continue
            return answer

    def has(self, key: str) -> bool:
        """Return whether a flag answers this question."""
        return self._flags.get(key) is not None

    def confirm(self, question: str, job: Mapping[str, Any] | None = None) -> bool:
        """Return the answer to a yes-or-no question; "show" prints the `job` and asks again."""
        choices = "Y/n/show" if job else "Y/n"
        while not self.yes:
            if not sys.stdin.isatty():
                return False
            answer = input(f"{question} [{choices}] ").strip().lower()
            if not (job and answer in ("s", "show")):
                return answer in ("", "y", "yes")
            YAML().dump(dict(job), sys.stdout)
        return True


def inspect(api: ApiClient, nodes: list[Machine], prompt: Prompt) -> list[Machine]:
    """Run a Job on each machine, after a confirmation; returns the machines with what it prints."""
    job = machines.look_job(nodes[0])
    print("A Job on each node reads mounts, networks, /dev/dri, and pings the network's addresses.")
    print(f"It runs {RESTIC_IMAGE.partition('@')[0]}, privileged, as root,")
    print("changes nothing, and is deleted afterwards.")
    if not prompt.confirm("Run it?", job):
        print("These commands, on each node, print the answers to the questions below:")
        print("  findmnt --real --bytes; ip -4 route; ip -4 address; tailscale ip -4")
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


def _check_choice(*choices: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"got {text!r}, want {', '.join(choices[:-1])} or {choices[-1]}")

    return check


def _first_two(pool: str) -> tuple[str, str]:
    """Return the first two addresses of a range; raises ValueError."""
    with contextlib.suppress(ValueError):
        first, last = map(IPv4Address, pool.split("-"))
        if last > first:
            return str(first), str(first + 1)
    want = "two consecutive addresses, such as 192.168.1.101-192.168.1.102"
    raise ValueError(f"got {pool!r}, want {want}")


def _check_alerts(text: str) -> dict[str, Any]:
    """Return `observability.notify` of an answer; raises ValueError."""
    name, _, value = text.partition("=")
    if name == "none":
        return {}
    try:
        receiver = {name: int(value) if name == "telegram" else value or "https://ntfy.sh"}
        Notify.model_validate(receiver)
    except (ValidationError, ValueError):
        want = "ntfy, ntfy=URL, pushover=USER_KEY, telegram=CHAT_ID, webhook=text or none"
        raise ValueError(f"got {text!r}, want {want}") from None
    return receiver


def _is_within(text: str, network: str) -> bool:
    """Return whether all addresses of a range are in a network; False if one is invalid."""
    try:
        return all(IPv4Address(part) in IPv4Network(network) for part in text.split("-"))
    except ValueError:
        return False


def draft(
    context: str, nodes: list[Machine], addon: bool, old: Mapping[str, Any], prompt: Prompt
) -> dict[str, Any]:
    """Return the keys of the stack file, from the machines, the answers and its `old` keys.

    New volumes are on the first node of the file, or else the first of `nodes`.
    """
    names = [*_object(old, "nodes")]
    nodes = sorted(nodes, key=lambda it: names.index(it.name) if it.name in names else len(names))
    first = nodes[0]
    missing = _object(old, "nodes").keys() - {machine.name for machine in nodes}
    question = f"{', '.join(sorted(missing))}: in the file, but not in the cluster; drop or keep?"
    choice = _check_choice("drop", "keep")
    drop = not missing or prompt("missing_nodes", question, "drop", choice) == "drop"
    node_keys = {} if drop else {name: old["nodes"][name] for name in sorted(missing)}
    for machine in nodes:
        node_keys[machine.name] = _node(machine, _object(old, "nodes", machine.name), prompt)
    webui, observability = _object(old, "webui"), _object(old, "observability")
    network = _network(first, _object(old, "network"), prompt)
    network.setdefault("metallb", "addon" if addon else "helm")
    page, grafana = {}, {}
    if network["pool"] != _object(old, "network").get("pool"):
        page["lan_address"], grafana["lan_address"] = _first_two(network["pool"])
    email = prompt(
        "email",
        "Your e-mail address, to sign in to the chat page?",
        "admin@homelab.home.arpa",
        _check_email,
        webui.get("admin_email"),
    )

    def node(workload: str) -> str:
        name = _object(old, workload).get("node")
        return name if name in node_keys else first.name

    def volume(workload: str) -> dict[str, str]:
        disk = node_keys[node(workload)]["disk"]
        top = f"{disk['path'].rstrip('/')}/"
        new = {"path": top + FOLDERS[workload], "size": _gi(size(disk["size"]) * SHARES[workload])}
        volume = _object(old, workload, "volume")
        return {**new, **volume} if volume.get("path", "").startswith(top) else new

    # Who has removed it uses `tailscale serve` (docs/install.md#https-and-phones).
    if first.tailnet and (not webui or "tailnet_address" in webui):
        page["tailnet_address"] = first.tailnet
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
    for section in FOLDERS:
        if len(node_keys) > 1 or "node" in keys[section]:
            keys[section]["node"] = node(section)
    data = node_keys[first.name]["disk"]["path"]
    for section, key, value in (
        ("webui", "backup", _backup(first, data, webui, prompt)),
        ("observability", "notify", _notify(_object(observability, "notify"), prompt)),
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
    lan = prompt("lan", f"The home network, with {machine.address}?", default, old=lan)
    pair: tuple[str, ...] | None = None
    if machine.lan and machine.taken is not None:
        pair = machines.free_pair(machine.lan, machine.address, machine.taken)
    question = "Two neighbouring addresses, free and outside the router's DHCP range?"
    pool = old.get("pool") if _is_within(str(old.get("pool")), lan) else None
    pool = prompt("pool", question, "-".join(pair or ()), _first_two, pool)
    return {**old, "lan": lan, "pool": pool}


def _backup(
    machine: Machine, data: str, webui: Mapping[str, Any], prompt: Prompt
) -> dict[str, Any]:
    """Return `webui.backup` on a second disk; empty for no backups."""
    backup = _object(webui, "backup")
    old = _object(backup, "volume").get("path")
    others = [disk.path for disk in machine.disks if disk.path not in ("/", data)]
    # A file that exists has answered with "none" before.
    default = "none" if webui or not others else others[0]
    question = f"A second disk for backups of the chats: {', '.join([*others, 'none'])}?"
    path = prompt("backup_disk", question, default, old=old).rstrip("/")
    if path in (old, "none"):
        return backup if path == old else {}
    sizes = {disk.path: _gi(disk.size) for disk in machine.disks}
    return {**backup, "volume": {"path": f"{path}/homelab", "size": sizes.get(path, "200Gi")}}


def _notify(old: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return `observability.notify`; empty if alerts reach nobody."""
    question = (
        "Alerts to your phone: ntfy, pushover=USER_KEY, telegram=CHAT_ID, webhook=text or none?"
    )
    answer = prompt("alerts", question, "none", _check_alerts, old="" if old else None)
    if not answer:
        return old
    if not (receiver := _check_alerts(answer)):
        return {}
    question = "Your time zone, because warnings come from 8:00 to 22:00 only?"
    zone = prompt(
        "timezone", question, os.environ.get("TZ") or "UTC", _check_zone, old.get("timezone")
    )
    heartbeat = {"heartbeat": old["heartbeat"]} if "heartbeat" in old else {}
    return {**receiver, **heartbeat, "timezone": zone}


def _check_zone(text: str) -> None:
    if text not in available_timezones():
        raise ValueError(f"got {text!r}, want a time zone, such as Europe/Berlin")


def _object(keys: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the object at a path of keys; empty if there is none."""
    value: Any = keys
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _node(machine: Machine, old: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys of a node."""
    name, disk = machine.name, _object(old, "disk")
    paths = [other.path for other in machine.disks]
    question = f"{name}: the data disk, by its mount point?"
    path = prompt("disk", question, next(iter(paths), ""), old=disk.get("path"))
    known = disk.get("size") if path == disk.get("path") else None
    known = next((_gi(other.size) for other in machine.disks if other.path == path), known)
    capacity = prompt("disk_size", f"{name}: the size of {path}?", "", _check_size, known)
    node = {
        **old,
        "address": machine.address,
        "cpus": machine.cpus,
        "memory": _gi(machine.memory),
        "disk": {"path": path, "size": capacity},
    }
    question = f"{name}: its memory, for the expected tokens/s: {', '.join(BANDWIDTHS)} or unknown?"
    kind = _check_choice(*BANDWIDTHS, "unknown")
    # Of a node in the file it was asked before.
    asked = "" if old else None
    if (memory := prompt("memory_kind", question, "unknown", kind, asked)) in BANDWIDTHS:
        node["memory_bandwidth"] = BANDWIDTHS[memory]
    return {**node, **_gpu(machine, old, prompt)}


def _gpu(machine: Machine, old: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the keys for models on a GPU that a device plugin offers; empty without one."""
    if not (machine.gpus and machine.gpu_memory and machine.gpu_groups):
        return {}
    device = machine.gpus[0]
    profile = machines.DEVICES[device]
    question = f"{machine.name} has {device}: models on it with {profile}, or on the cpu?"
    choice = _check_choice(profile, "cpu")
    if (answer := prompt("profile", question, profile, choice, old.get("profile"))) == "cpu":
        return {"profile": "cpu"}
    gpu = {"memory": _gi(machine.gpu_memory), "groups": [*machine.gpu_groups]}
    return {"profile": answer, "gpu": {**gpu, **_object(old, "gpu")}}


def _models(keys: Mapping[str, Any], prompt: Prompt) -> list[Any]:
    """Return the chosen models, of those that each fit alone by the capacity plan."""

    def validate(text: str) -> Settings:
        names = [name.strip() for name in text.split(",")]
        return _read({**keys, "ollama": {**keys["ollama"], "models": names}})

    declared = keys["ollama"].get("models")
    if declared and not prompt.has("models"):
        return list(declared)
    print("Models that fit, each alone, and the tokens/s that the memory bandwidth allows at most:")
    fitting = []
    for name in OFFERED:
        with contextlib.suppress(SettingsError):
            (model, *_) = plan(validate(name), RESERVED)["ollama"].models
            speed = f"{model.ceiling:.0f}" if model.ceiling else "?"
            print(f"  {name:14}{gib(model.shape.size):>9}{speed:>5} tokens/s")
            fitting.append(name)
    if not fitting:
        validate(OFFERED[0])
    question = "Models to pull, separated by commas; a new chat starts with the first?"
    chosen = prompt("models", question, ",".join(fitting[:3]), validate)
    return [name.strip() for name in chosen.split(",")]


def merge(text: str, keys: Mapping[str, Any]) -> str:
    """Return the stack file `text` with these keys; its comments and other settings stay."""
    parser = YAML()
    parser.width = 120
    parser.indent(mapping=2, sequence=4, offset=2)
    document = parser.load(text)
    if not (document or {}).get("config"):
        # `pulumi stack init` before `make init` writes only the salt.
        others = {key: value for key, value in (document or {}).items() if key != "config"}
        document = parser.load(TEMPLATE)
        document.update(others)
    prefixed = {f"{PREFIX}{key}": value for key, value in keys.items()}
    _update(document["config"], {**document["config"], **prefixed})
    output = io.StringIO()
    parser.dump(document, output)
    return output.getvalue()


def _update(document: Any, values: Mapping[str, Any]) -> None:
    """Change `document` to `values`, in place, so that the comments of equal values stay."""
    for key in [key for key in document if key not in values]:
        del document[key]
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), dict):
            _update(document[key], value)
        elif document.get(key) != value:
            document[key] = value


def check(text: str) -> Settings:
    """Validate a stack file's text; raises SettingsError, a line for each invalid key.

    The secret of `observability.notify` may be missing, because only the CLI can encrypt it.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "Pulumi.yaml")
        file.write_text(text)
        return _read(project_keys(read_config(file)))


def _read(keys: Mapping[str, Any]) -> Settings:
    secret = {"notifySecret": SECRET} if _object(keys, "observability", "notify") else {}
    return read({**secret, **keys}, RESERVED)


def next_steps(stack: str, settings: Settings, has_salt: bool) -> str:
    """Return the next commands to run."""
    steps = [] if has_salt else [f"pulumi stack init {stack}"]
    if settings.observability.notify and settings.notifySecret == SECRET:
        steps.append(f"pulumi config set --secret homelab:notifySecret --stack {stack}")
    steps += [f"make doctor STACK={stack}", f"make up STACK={stack}"]
    return "\n  ".join(["next:", *steps])


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
                _create(machine, disk, owners, api, prompt)


def _create(
    machine: Machine,
    disk: str,
    owners: Mapping[str, tuple[str, str]],
    api: ApiClient,
    prompt: Prompt,
) -> None:
    """Create directories on a disk by a Job, after a confirmation."""
    print(f"A Job on {machine.name} creates these directories, if {disk} is mounted;")
    print("files in them get the same owner (docs/moving-in.md):")
    print("\n".join(f"  {path} {' '.join(owner)}" for path, owner in owners.items()))
    job = machines.directories_job(machine, disk, owners)
    if prompt.confirm("Run it?", job):
        try:
            print(machines.run(api, job))
        except UnreadableError as error:
            print(f"not created: {error}; by hand: docs/install.md#2-directories-on-the-server")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="home", help="the stack, of Pulumi.STACK.yaml")
    parser.add_argument("--context", help="the kubeconfig's context; default: the current one")
    parser.add_argument("--yes", action="store_true", help="take every default without asking")
    for name in QUESTIONS:
        parser.add_argument(f"--{name}", help="the answer to that question")


def run(options: argparse.Namespace) -> int:
    """Ask, show the stack file, write it, and return the exit code."""
    prompt = Prompt(vars(options), options.yes)
    try:
        file, settings, nodes, api = write(options, prompt)
    except (UnreadableError, SettingsError, ValueError, EOFError) as error:
        print(f"error: {str(error) or 'no answer'}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    with contextlib.suppress(EOFError):
        directories(nodes, settings, api, prompt)
    print()
    print(next_steps(options.stack, settings, "encryptionsalt:" in file.read_text()))
    return 0


def write(
    options: argparse.Namespace, prompt: Prompt
) -> tuple[Path, Settings, list[Machine], ApiClient]:
    """Ask, show and write the stack file; returns it, its settings, the nodes and their API.

    Raises UnreadableError, ValueError, and EOFError at the end of the input.
    """
    file = stacks.PROJECT / f"Pulumi.{options.stack}.yaml"
    before = file.read_text() if file.exists() else ""
    old = project_keys(read_config(file)) if "\nconfig:" in f"\n{before}" else {}
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
    text = merge(before, keys)
    settings = check(text)
    if text == before:
        print(f"{file.name}: nothing to change")
        return file, settings, nodes, cluster.api
    changes = difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=1)
    print("\n".join([*changes][2:]) if before else text)
    if not prompt.confirm(f"Write {file.name}?"):
        raise EOFError("not confirmed")
    file.write_text(text)
    print(f"wrote {file.name}")
    return file, settings, nodes, cluster.api
