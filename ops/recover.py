"""Repair a stack after an interrupted `pulumi up`, so that the next one can run.

Prints the problems, asks, and repairs only these. Exit code 0 means that the next `up` can run, 1
that it cannot yet.
"""

import argparse
import getpass
import json
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from config import Request
from ops import releases, stacks
from ops.cluster import Cluster, UnreadableError
from ops.releases import UNFINISHED, Revision
from ops.stacks import Stack

RELEASE = "kubernetes:helm.sh/v3:Release"
RELEASES = ("observability/kube-prom-stack", "metallb-system/metallb")
"""Namespace and name of every release in the program."""
VOLUME = "kubernetes:core/v1:PersistentVolume"
AGE = 120
"""Seconds after Helm's last write until it is considered stopped. It does not wait for pods, and
took 1.5 s; two requests of half a second for each of the chart's 93 objects take 93 s."""


class Lock(NamedTuple):
    """A lock of the stack in a file backend."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"the stack is locked by {self.user}@{self.host} (pid {self.pid}) since {self.since}"

    @property
    def stale(self) -> bool:
        """True if its process ran on this machine and has ended."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            # PIDs are reused.
            return process.name() != "pulumi" or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """Leftovers of an interrupted run."""

    locks: list[Lock]
    pending: list[dict[str, Any]]
    """Pending operations in the state."""
    revisions: list[Revision]
    """Revisions of releases that block the next `up`."""
    volumes: list[str]
    """Names of volumes in phase Released."""
    reasons: list[str]
    """A line for each of these problems."""


def export_state(stack: Stack) -> dict[str, Any]:
    """Return the stack's state, as for `pulumi stack import`; raises UnreadableError."""
    return dict(json.loads(stacks.output(stack, "stack", "export")))


def inspect(stack: Stack, state: Mapping[str, Any], cluster: Cluster) -> Interrupted:
    """Return the leftovers of an interrupted run; raises UnreadableError."""
    deployment = state.get("deployment") or {}
    recorded = {(item["type"], item.get("id")) for item in deployment.get("resources") or []}
    pending = deployment.get("pending_operations") or []
    stack_locks = locks(stack)
    reasons = [str(lock) for lock in stack_locks]
    reasons += [f"pending in the state: {op['type']} {_label(op['resource'])}" for op in pending]
    blocking: list[Revision] = []
    for release in RELEASES:
        namespace, name = release.split("/")
        is_recorded = (RELEASE, release) in recorded
        # In a namespace of others, a release of this name is not the stack's.
        if not is_recorded and ("kubernetes:core/v1:Namespace", namespace) not in recorded:
            continue
        revisions = releases.revisions(cluster, namespace, name)
        if last := releases.unfinished(revisions):
            reasons.append(releases.reason(last))
        elif revisions and not is_recorded:
            status = revisions[-1].status
            reasons.append(f"release {release}: it is {status}, but not in the state")
        if not is_recorded or (last and last.status == "uninstalling"):
            blocking += revisions
        else:
            blocking += takewhile(lambda last: last.status in UNFINISHED, reversed(revisions))
    response = cluster.ask("/api/v1/persistentvolumes") or {}
    released = {
        item["metadata"]["name"]
        for item in response.get("items") or []
        if item["status"].get("phase") == "Released"
    }
    volumes = sorted(name for name in released if (VOLUME, name) in recorded)
    reasons += [f"volume {name}: Released: its claim was deleted" for name in volumes]
    return Interrupted(
        locks=stack_locks, pending=pending, revisions=blocking, volumes=volumes, reasons=reasons
    )


def running(stack: Stack, run: Interrupted) -> str:
    """Return a line about what may still be running; empty if nothing is."""
    attributes = ["name", "username", "cwd", "ppid"]
    processes = {process.pid: process.info for process in psutil.process_iter(attributes)}
    for pid, process in processes.items():
        name, is_here = process["name"] or "", process["cwd"] == str(stack.folder.resolve())
        if name.startswith("pulumi") and is_here and process["username"] == getpass.getuser():
            # A plugin is a child of the CLI that started it.
            if "pulumi" in (name, processes.get(process["ppid"], {}).get("name")):
                return f"{name} still runs: wait, or end it with: kill {pid}"
            return f"{name} still runs without its CLI; end it with: kill {pid}"
    for lock in run.locks:
        if not lock.stale:
            return f"{lock}; once nothing runs there: pulumi cancel --stack {stack.name}"
    age = time.time() - max((revision.changed for revision in run.revisions), default=0)
    if not run.locks and age < AGE:
        return f"Helm may still run, it wrote {age:.0f} s ago; wait for {AGE - age:.0f} s"
    return ""


def repair_state(stack: Stack, state: Mapping[str, Any], run: Interrupted) -> None:
    """Remove the lock and the state's pending operations; raises UnreadableError."""
    if run.locks:
        stacks.output(stack, "cancel", "--yes")
    if run.pending:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(without_pending(state), file)
            file.flush()
            # `import` drops pending operations.
            stacks.output(stack, "stack", "import", "--file", file.name)


def repair_cluster(cluster: Cluster, run: Interrupted) -> None:
    """Delete the Secrets of revisions, and free volumes for new claims; raises UnreadableError."""
    for revision in run.revisions:
        cluster.request("DELETE", revision.path)
    for name in run.volumes:
        # Without the uid of the deleted claim, the volume binds to a new claim of that name.
        patch = {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
        merge = {"Content-Type": "application/merge-patch+json"}
        cluster.request("PATCH", f"/api/v1/persistentvolumes/{name}", patch, merge)


def without_pending(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state as if each pending object had been created.

    The next run's refresh removes those that do not exist, and so creates them.
    """
    deployment = dict(state["deployment"])
    resources = list(deployment["resources"])
    for operation in deployment.pop("pending_operations", None) or []:
        new = operation["resource"]
        same = [old for old in resources if old["urn"] == new["urn"] and not old.get("delete")]
        replaced = [old for old in same if old.get("pendingReplacement")]
        if operation["type"] == "creating" and same == replaced and (id_ := identity(new)):
            resources = [old for old in resources if old not in replaced]
            resources.append({**new, "id": id_})
    deployment["resources"] = resources
    return {**state, "deployment": deployment}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    """Inspect, ask, repair, and return the exit code."""
    stack = stacks.find(options.stack)
    context = stacks.settings(options.stack, Request(0, 0)).context
    cluster = Cluster(context, stack.kubeconfig)
    state = export_state(stack)
    interrupted = inspect(stack, state, cluster)
    if not interrupted.reasons:
        print("nothing to recover: no lock, nothing pending in the state, every release finished")
        return 0
    print("\n".join(f"  {reason}" for reason in interrupted.reasons))
    if reason := running(stack, interrupted):
        raise UnreadableError(reason)
    steps = [
        *(["remove the lock"] if interrupted.locks else []),
        *(["remove pending operations from the state"] if interrupted.pending else []),
        *(f"delete Secret {item.namespace}/{item.secret}" for item in interrupted.revisions),
        *(f"free volume {name} for its new claim" for name in interrupted.volumes),
    ]
    print(f"to do: {'; '.join(steps)}; objects installed by Helm are kept")
    if not options.yes and not _confirmed():
        print("nothing was changed")
        return 1
    if (again := export_state(stack)) != state or inspect(stack, again, cluster) != interrupted:
        raise UnreadableError("the stack changed meanwhile, so nothing was done: run it again")
    repair_state(stack, state, interrupted)
    repair_cluster(cluster, interrupted)
    print(f"next: make up STACK={stack.name}")
    return 0


def _confirmed() -> bool:
    try:
        return input("continue? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def locks(stack: Stack) -> list[Lock]:
    """Return the locks of a file backend; with others, Pulumi's commands fail on a lock."""
    url = str(json.loads(stacks.output(stack, "whoami", "--json"))["url"])
    if not url.startswith("file://"):
        return []
    folder = Path(url.removeprefix("file://").partition("?")[0]).expanduser() / ".pulumi/locks"
    result = []
    for path in sorted(folder.rglob(f"homelab/{stack.name}/*.json")):
        try:
            lock = json.loads(path.read_text())
            result.append(Lock(lock["username"], lock["hostname"], lock["pid"], lock["timestamp"]))
        except (OSError, ValueError, KeyError) as error:
            raise UnreadableError(f"{path}: {error}") from error
    return result


def identity(resource: Mapping[str, Any]) -> str | None:
    """Return the ID of a Kubernetes object in the state; None for other resources."""
    metadata = resource.get("inputs", {}).get("metadata", {})
    if not resource["type"].startswith("kubernetes:") or not metadata.get("name"):
        return None
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _label(resource: Mapping[str, Any]) -> str:
    return f"{resource['type'].rpartition(':')[2]} {resource['urn'].rpartition('::')[2]}"
