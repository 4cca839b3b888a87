"""What the stack's state says there is, and what a refresh finds of it; nothing is written."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Any

from ops.cluster import Key, UnreadableError
from ops.findings import Finding, difference, kubectl_kind

Cli = Callable[..., CompletedProcess[str]]
"""Runs the Pulumi CLI on one stack with the arguments given."""

CHANGES = 7
"""The CLI's exit code for "changes were found" under `--expect-no-changes`."""

RELEASE = "kubernetes:helm.sh/v3:Release"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the last `up` left."""

    context: str
    """Of the kubeconfig, as the program had it."""
    objects: frozenset[Key]
    releases: tuple[tuple[str, str], ...]
    """Namespace and name of each Helm release."""


def state(cli: Cli) -> State:
    """Read the state; raises UnreadableError, also if there is nothing in it."""
    exported = _told(cli, 0, "stack", "export")
    made = [
        one
        for one in (exported.get("deployment") or {}).get("resources") or []
        if not one.get("delete")
    ]
    providers = [one for one in made if one["type"] == "pulumi:providers:kubernetes"]
    if not providers:
        raise UnreadableError("the state is empty: nothing was brought up yet")
    return State(
        context=providers[0]["inputs"].get("context", ""),
        objects=frozenset(key for one in made if (key := _key(one["type"], one.get("id", "")))),
        releases=tuple(_place(one["id"]) for one in made if one["type"] == RELEASE),
    )


def refresh(cli: Cli) -> list[Finding]:
    """Find declared objects that were changed or deleted; raises UnreadableError."""
    found = _told(cli, CHANGES, "refresh", "--preview-only", "--expect-no-changes", "--json")
    steps = found.get("steps") or []
    told = [_finding(step) for step in steps if step["op"] in ("update", "delete")]
    counts = {op: n for op, n in (found.get("changeSummary") or {}).items() if op != "same"}
    if len(told) != sum(counts.values()):
        raise UnreadableError(f"pulumi refresh counts {counts}, but names {len(told)}")
    return told


def _told(cli: Cli, also_good: int, *arguments: str) -> Any:
    """Give the JSON that a command prints; raises UnreadableError with the reason it tells."""
    done = cli(*arguments)
    try:
        printed = json.loads(done.stdout)
    except ValueError:
        printed = None
    if done.returncode in (0, also_good) and printed is not None:
        return printed
    said = (printed or {}).get("diagnostics") or []
    # The first tells the cause; what follows is that it failed.
    errors = [one["message"] for one in said if one["severity"] == "error"]
    line = " ".join((errors or [done.stderr or done.stdout])[0].split())
    raise UnreadableError(f"pulumi {arguments[0]}: exit {done.returncode}: {line[:300]}")


def _finding(step: Mapping[str, Any]) -> Finding:
    old, new = step["oldState"], step.get("newState") or {}
    other = ("", old["type"].rpartition(":")[2], *_place(old["id"]))
    group, kind, namespace, name = _key(old["type"], old["id"]) or other
    fields = (
        difference(kind, path, _at(old["inputs"], path), _at(new["inputs"], path))
        for path in sorted(step.get("detailedDiff") or {})
    )
    return Finding(
        layer="declared",
        kind=kubectl_kind(group, kind),
        namespace=namespace,
        name=name,
        change="deleted" if step["op"] == "delete" else "changed",
        fields=() if step["op"] == "delete" else tuple(fields),
    )


def _key(type_: str, identity: str) -> Key | None:
    """The key of a Kubernetes object in the state; None for anything else."""
    package, _, rest = type_.partition(":")
    version, _, kind = rest.partition(":")
    if package != "kubernetes" or type_ == RELEASE:
        return None
    group = version.partition("/")[0]
    return ("" if group == "core" else group, kind, *_place(identity))


def _place(identity: str) -> tuple[str, str]:
    namespace, _, name = identity.rpartition("/")
    return namespace, name


def _at(inputs: Any, path: str) -> Any:
    """The value at a path of Pulumi's, such as `spec.ports[0].name` or `data["a.b"]`."""
    for quoted, index, plain in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        try:
            inputs = inputs[int(index)] if index else inputs[quoted or plain]
        except (KeyError, IndexError, TypeError):
            return None
    return inputs
