"""Write a server's stack file from its cluster and the owner's answers.

Changes only that file and, after a confirmation, the volumes' directories on the server. A question
that the file answers is not asked again.
"""

import argparse
import contextlib
import difflib
import sys
import textwrap
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kubernetes.client import ApiClient

from config import Settings
from config.quantities import gib
from config.stack_file import project_keys, read_config
from config.versions import RESTIC_IMAGE
from ops import machines, stacks
from ops.cluster import Cluster, UnreadableError, current_context
from ops.init_file import check, merge
from ops.init_keys import draft
from ops.init_questions import QUESTIONS, Prompt
from ops.machines import Machine

OWNERS = {"observability": ("1000:2000", "0770")}
"""Owner and mode of a volume's directory if not `1000:1000`, 0750 (docs/install.md)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--context", help="the kubeconfig's context; default: the current one")
    parser.add_argument("--yes", action="store_true", help="take every default without asking")
    for name, text in QUESTIONS.items():
        parser.add_argument(f"--{name}", help=text)


def run(options: argparse.Namespace) -> int:
    """Ask, show the stack file, write it, and return the exit code."""
    prompt = Prompt(vars(options), options.yes)
    try:
        file, settings, nodes, api = write(options, prompt)
    except (UnreadableError, OSError, ValueError) as error:
        print(f"error: {error}; nothing was written", file=sys.stderr)
        return 1
    # Below the question.
    except EOFError as error:
        print(f"\nerror: {str(error) or 'no answer'}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted; nothing was written", file=sys.stderr)
        return 130
    with contextlib.suppress(EOFError):
        directories(nodes, settings, api, prompt)
    print()
    print(next_steps(options.stack, settings, file.read_text()))
    return 0


def write(
    options: argparse.Namespace, prompt: Prompt
) -> tuple[Path, Settings, list[Machine], ApiClient]:
    """Ask, show and write the stack file; returns it, its settings, the nodes and their API.

    Raises UnreadableError, ValueError, and EOFError at the end of the input.
    """
    file = stacks.PROJECT / f"Pulumi.{options.stack}.yaml"
    try:
        before = file.read_text() if file.exists() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: cannot be read: {error}") from error
    old = project_keys(read_config(file)) if "\nconfig:" in f"\n{before}" else {}
    context = options.context or old.get("context") or current_context()
    cluster = Cluster(context)
    print(f"context {context}: asking {cluster.configuration.host}", flush=True)
    nodes = machines.from_nodes(cluster.read("/api/v1/nodes")["items"])
    if not nodes:
        raise UnreadableError(f"context {context}: got no nodes, want one or more")
    used = machines.assigned(cluster)
    nodes = [
        replace(node, taken=None if node.taken is None else node.taken | used)
        for node in inspect(cluster.api, nodes, prompt)
    ]
    print("\n".join(map(describe, nodes)))
    keys = draft(context, nodes, machines.has_metallb(cluster), old, prompt)
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
    for machine in inspected:
        if machine.disks and machine.taken is None:
            print(f"  {machine.name}: could not ping, so free addresses are unknown")
    return inspected


def describe(machine: Machine) -> str:
    """Return a machine's capacity, in lines of at most 100 columns."""
    parts = [f"{machine.cpus} cpus", gib(machine.memory), *machine.gpus]
    parts += [f"{disk.path} {gib(disk.size)}" for disk in machine.disks]
    parts += [f"tailnet {machine.tailnet}"] if machine.tailnet else []
    line = f"  {machine.name} ({machine.address}): {', '.join(parts)}"
    return textwrap.fill(line, 100, subsequent_indent="    ")


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
            if not owners:
                continue
            print(f"A Job on {machine.name} creates these directories, if {disk} is mounted;")
            print("files in them get the same owner (docs/moving-in.md):")
            print("\n".join(f"  {path} {' '.join(owner)}" for path, owner in owners.items()))
            job = machines.directories_job(machine, disk, owners)
            if prompt.confirm("Run it?", job):
                try:
                    print(machines.run(api, job))
                except UnreadableError as error:
                    way = "docs/install.md#2-directories-on-the-server"
                    print(f"not created: {error}; by hand: {way}")


def next_steps(stack: str, settings: Settings, text: str) -> str:
    """Return the next commands to run after this text of the stack file was written."""
    steps = [] if "encryptionsalt:" in text else [f"pulumi stack init {stack}"]
    if settings.observability.notify and "notifySecret:" not in text:
        steps.append(f"pulumi config set --secret homelab:notifySecret --stack {stack}")
    steps += [f"make doctor STACK={stack}", f"make up STACK={stack}"]
    return "\n  ".join(["next:", *steps])
