"""Take up what an interrupted `up` has left, so that the next one goes through.

Looks, says what is there, asks, and mends that and nothing else. Exit code 0 is that the next `up`
can run, 1 that it cannot yet.
"""

import argparse
import getpass
import json
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from kubernetes.client import ApiException, CoreV1Api
from kubernetes.config import new_client_from_config
from urllib3.exceptions import HTTPError

from config import Request, SettingsError, read
from config.stack_file import project_keys, read_config
from ops import releases, stacks
from ops.cluster import Cluster, UnreadableError
from ops.releases import UNFINISHED, Revision
from ops.stacks import Stack

RELEASE = "kubernetes:helm.sh/v3:Release"
OURS = ("observability/kube-prom-stack", "metallb-system/metallb")
"""Namespace and name of every release that the program can make."""
VOLUME = "kubernetes:core/v1:PersistentVolume"
AGE = 120
"""Seconds without a word of Helm's after which it is at work no more, if nothing else says so. It
does not wait for pods, and was seen to take 1.5 s; two requests for each of the chart's 93 objects
take 93 s where each takes half a second."""


class Lock(NamedTuple):
    """Who holds the stack, as the file backend writes it."""

    user: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"the stack is locked by {self.user}@{self.host} (pid {self.pid}) since {self.since}"

    @property
    def lost(self) -> bool:
        """Whether it was taken on this machine, by a process that has ended."""
        if self.host != socket.gethostname():
            return False
        try:
            holder = psutil.Process(self.pid)
            # Pids are used again.
            return holder.name() != "pulumi" or holder.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupted:
    """What an interrupted run has left."""

    locks: list[Lock]
    pending: list[dict[str, Any]]
    """Operations that the state says have begun."""
    revisions: list[Revision]
    """Those that stand in the way of the next `up`."""
    volumes: list[str]
    """Names of volumes that are bound to a claim which is gone."""
    reasons: list[str]
    """One line for each of all these."""


def exported(stack: Stack) -> dict[str, Any]:
    """Read the stack's state, as `pulumi stack import` takes it; raises UnreadableError."""
    return dict(json.loads(_pulumi(stack, "stack", "export")))


def look(stack: Stack, state: Mapping[str, Any], cluster: Cluster) -> Interrupted:
    """Look for what an interrupted run has left; raises UnreadableError."""
    deployment = state.get("deployment") or {}
    known = {(item["type"], item.get("id")) for item in deployment.get("resources") or []}
    pending = deployment.get("pending_operations") or []
    held = locks(stack)
    reasons = [str(lock) for lock in held]
    reasons += [f"pending in the state: {op['type']} {_label(op['resource'])}" for op in pending]
    revisions: list[Revision] = []
    for place in OURS:
        namespace, name = place.split("/")
        recorded = (RELEASE, place) in known
        # A release in somebody else's namespace is somebody else's.
        if not recorded and ("kubernetes:core/v1:Namespace", namespace) not in known:
            continue
        kept = releases.revisions(cluster, namespace, name)
        if last := releases.unfinished(kept):
            reasons.append(releases.reason(last))
        elif kept and not recorded:
            reasons.append(f"release {place}: it is {kept[-1].status}, but not in the state")
        if not recorded or (last and last.status == "uninstalling"):
            revisions += kept
        else:
            revisions += takewhile(lambda last: last.status in UNFINISHED, reversed(kept))
    answer = cluster.ask("/api/v1/persistentvolumes") or {}
    released = {
        item["metadata"]["name"]
        for item in answer.get("items") or []
        if item["status"].get("phase") == "Released"
    }
    volumes = sorted(name for name in released if (VOLUME, name) in known)
    reasons += [f"volume {name}: Released, its claim is gone" for name in volumes]
    return Interrupted(
        locks=held, pending=pending, revisions=revisions, volumes=volumes, reasons=reasons
    )


def at_work(stack: Stack, run: Interrupted) -> str:
    """Say in one line who may still be at work; empty: nobody."""
    about = ["name", "username", "cwd", "ppid"]
    running = {one.pid: one.info for one in psutil.process_iter(about)}
    for pid, one in running.items():
        name, here = one["name"] or "", one["cwd"] == str(stack.folder.resolve())
        if name.startswith("pulumi") and here and one["username"] == getpass.getuser():
            # A plugin is a child of the CLI that has started it.
            if "pulumi" in (name, running.get(one["ppid"], {}).get("name")):
                return f"{name} still runs: wait, or end it with: kill {pid}"
            return f"{name} still runs, but nothing waits for it: kill {pid}"
    for lock in run.locks:
        if not lock.lost:
            return f"{lock}; once nothing runs there: pulumi cancel --stack {stack.name}"
    since = time.time() - max((revision.changed for revision in run.revisions), default=0)
    if not run.locks and since < AGE:
        return f"Helm may be at work, it wrote {since:.0f} s ago; wait for {AGE - since:.0f} s"
    return ""


def mend_state(stack: Stack, state: Mapping[str, Any], run: Interrupted) -> None:
    """Lift the lock, and end what is pending in the state; raises UnreadableError."""
    if run.locks:
        _pulumi(stack, "cancel", "--yes")
    if run.pending:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(settled(state), file)
            file.flush()
            # It leaves out pending operations by itself.
            _pulumi(stack, "stack", "import", "--file", file.name)


def mend_cluster(stack: Stack, context: str, run: Interrupted) -> None:
    """Delete the Secrets of revisions, and free volumes for new claims; raises UnreadableError."""
    file = str(stack.kubeconfig) if stack.kubeconfig else None
    api: Any = CoreV1Api(new_client_from_config(file, context))  # type: ignore[no-untyped-call]
    patient = {"_request_timeout": (5, 30)}
    for revision in run.revisions:
        with _readable(f"Secret {revision.namespace}/{revision.secret}"):
            api.delete_namespaced_secret(revision.secret, revision.namespace, **patient)
    for name in run.volumes:
        with _readable(f"volume {name}"):
            # Without the uid of the claim that is gone, the next one of its name is bound.
            free = {"spec": {"claimRef": {"uid": None, "resourceVersion": None}}}
            api.patch_persistent_volume(name, free, **patient)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn the API server's refusal into an UnreadableError; what is gone already is well."""
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise UnreadableError(f"{what}: {error.status} {error.reason}") from error
    except HTTPError as error:
        raise UnreadableError(f"{what}: {error}") from error


def settled(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give the state as if each object that was being made had been made.

    The refresh that begins every run looks: what is there is kept, what is not is made.
    """
    deployment = dict(state["deployment"])
    resources = list(deployment["resources"])
    for operation in deployment.pop("pending_operations", None) or []:
        new = operation["resource"]
        same = [old for old in resources if old["urn"] == new["urn"] and not old.get("delete")]
        replaced = [old for old in same if old.get("pendingReplacement")]
        if operation["type"] == "creating" and same == replaced and (known := identity(new)):
            resources = [old for old in resources if old not in replaced]
            resources.append({**new, "id": known})
    deployment["resources"] = resources
    return {**state, "deployment": deployment}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="sandbox", help="the stack whose `up` was cut off")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: argparse.Namespace) -> int:
    """Look, ask, mend, print, and give the exit code."""
    try:
        return _run(options)
    except (SettingsError, UnreadableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    keys = project_keys(read_config(stacks.PROJECT / f"Pulumi.{options.stack}.yaml"))
    context = read(keys, Request(0, 0)).context
    stack = stacks.find(options.stack)
    cluster = Cluster(context, stack.kubeconfig)
    state = exported(stack)
    left = look(stack, state, cluster)
    if not left.reasons:
        print("nothing to recover: no lock, nothing pending in the state, every release finished")
        return 0
    print("\n".join(f"  {reason}" for reason in left.reasons))
    if busy := at_work(stack, left):
        raise UnreadableError(busy)
    doing = [
        *(["lift the lock"] if left.locks else []),
        *(["end what is pending in the state"] if left.pending else []),
        *(f"delete Secret {item.namespace}/{item.secret}" for item in left.revisions),
        *(f"free volume {name} for its new claim" for name in left.volumes),
    ]
    print(f"to do: {'; '.join(doing)}; what the releases made stays")
    if not options.yes and not _agreed():
        print("nothing was changed")
        return 1
    if (again := exported(stack)) != state or look(stack, again, cluster) != left:
        raise UnreadableError("it changed meanwhile, so nothing was done: look again")
    mend_state(stack, state, left)
    mend_cluster(stack, context, left)
    print("now " + ("make up" if stack.name == "sandbox" else f"make up STACK={stack.name}"))
    return 0


def _agreed() -> bool:
    try:
        return input("do it? [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


def locks(stack: Stack) -> list[Lock]:
    """Read the locks of a file backend; of another, a command that needs the stack tells."""
    url = str(json.loads(_pulumi(stack, "whoami", "--json"))["url"])
    if not url.startswith("file://"):
        return []
    folder = Path(url.removeprefix("file://").partition("?")[0]).expanduser() / ".pulumi/locks"
    held = []
    for path in sorted(folder.rglob(f"homelab/{stack.name}/*.json")):
        try:
            lock = json.loads(path.read_text())
            held.append(Lock(lock["username"], lock["hostname"], lock["pid"], lock["timestamp"]))
        except (OSError, ValueError, KeyError) as error:
            raise UnreadableError(f"{path}: {error}") from error
    return held


def identity(resource: Mapping[str, Any]) -> str | None:
    """Give the id that a Kubernetes object has or would have; None for anything else."""
    metadata = resource.get("inputs", {}).get("metadata", {})
    if not resource["type"].startswith("kubernetes:") or not metadata.get("name"):
        return None
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _label(resource: Mapping[str, Any]) -> str:
    return f"{resource['type'].rpartition(':')[2]} {resource['urn'].rpartition('::')[2]}"


def _pulumi(stack: Stack, *arguments: str) -> str:
    """Run the CLI; raises UnreadableError with what it said."""
    done = stack.cli(*arguments)
    if done.returncode:
        line = " ".join((done.stderr or done.stdout).split())
        raise UnreadableError(f"pulumi {' '.join(arguments[:2])}: {line[:500]}")
    return done.stdout
