"""Compare the cluster with the objects that the last `pulumi up` declared, read-only.

Exit code 0 means no drift, 7 drift, 1 that something could not be read.
"""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ops import recover, releases, stacks
from ops.cluster import Cluster, UnreadableError, expiring
from ops.drift_fields import Finding, compare
from ops.stacks import Stack

DRIFT = 7
"""Exit code; the same as the CLI's if `--expect-no-changes` fails."""
RUNS = ("helm", "pulumi")  # layers of findings about an interrupted run


def run(options: argparse.Namespace) -> int:
    """Compare, print the findings and return the exit code."""
    findings, unread, commands = list[Finding](), list[str](), list[str]()
    try:
        stack = stacks.find(options.stack)
        print("reading the state", file=sys.stderr)
        state = stacks.deployment(stack)
        print(f"comparing {len(state['resources'])} resources", file=sys.stderr)
        findings, unread = check(stack, state)
        commands = fix_commands(findings, stack, state["context"])
    except UnreadableError as error:
        unread = [str(error)]
    code = 1 if unread else DRIFT if findings else 0
    if findings:
        for item in findings:
            title = f"  {item.layer}: {item.kind} {item.where}: {item.change}"
            print(title, *item.fields, sep="\n    ")
        print("\nto fix it, run in this order:", *commands, sep="\n  ")
    elif not unread:
        print("no drift", file=sys.stderr)
    if unread:
        more = f"; and {rest} more" if (rest := len(unread) - 1) else ""
        print(f"error: could not check {options.stack}: {unread[0]}{more}", file=sys.stderr)
    return code


def check(stack: Stack, state: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return the findings, and a line for each object that could not be read.

    Raises UnreadableError if the cluster cannot be reached.
    """
    cluster = Cluster(state["context"], stack.kubeconfig)
    findings, unread = list[Finding](), list[str]()
    for subject, problem, remedy in expiring(cluster.configuration):
        where = cluster.configuration.host
        findings.append(Finding("server", subject, where, problem, (remedy,)))
    for operation in state.get("pending_operations") or []:
        name = operation["resource"]["urn"].rpartition("::")[2]
        change = f"an up was interrupted while {operation['type']} it"
        findings.append(Finding("pulumi", "resource", name, change))
    with ThreadPoolExecutor(8) as pool:
        engine = pool.submit(_engine, stack)
        futures = [
            pool.submit(_release, cluster, resource["id"])
            if resource["type"] == recover.RELEASE
            else pool.submit(_objects, cluster, "state", [resource["inputs"]])
            for resource in state["resources"]
            if resource["type"].startswith("kubernetes:")
        ]
        for future in [*futures, engine]:
            # Except for releases, the engine's findings repeat those of `_objects`.
            seen = {(item.kind.partition(".")[0], item.where) for item in findings}
            try:
                new = [item for item in future.result() if (item.kind, item.where) not in seen]
                findings += new
            except UnreadableError as error:
                unread.append(str(error))
    return sorted(findings, key=lambda item: (item.layer not in RUNS, item)), unread


def fix_commands(findings: Sequence[Finding], stack: Stack, context: str) -> list[str]:
    """Return the commands that revert the drift, in the order to run them."""
    up = f"make up STACK={stack.name}"
    if any(item.layer in RUNS for item in findings):
        return [f"make recover STACK={stack.name}", up]
    env = f"KUBECONFIG={shlex.quote(str(stack.kubeconfig))} " if stack.kubeconfig else ""
    kubectl, patches, others = f"{env}kubectl --context {context}", list[str](), list[str]()
    for item in findings:
        namespace, _, name = item.where.rpartition("/")
        if item.added:
            # With their managedFields, because a default would keep its owner; in reverse order,
            # because removing an element changes later indices; for this resourceVersion only.
            paths = [*(f"/metadata/managedFields/{n}" for n in item.by), *item.added]
            test = {"op": "test", "path": "/metadata/resourceVersion", "value": item.version}
            patch = [test, *({"op": "remove", "path": path} for path in reversed(paths))]
            target = f"{item.kind} {name}" + (f" -n {namespace}" if namespace else "")
            options = f"--type json --field-manager helm -p {shlex.quote(json.dumps(patch))}"
            patches.append(f"{kubectl} patch {target} {options}")
        if item.change == "changed" and len(item.fields) == len(item.added):
            continue
        if item.layer == "server":
            others.append(f"{item.fields[0]}  # on the server")
        elif item.layer != "state":
            namespace, _, release = item.layer.removeprefix("release ").partition("/")
            show = f"{env}helm --kube-context {context} get manifest {release} -n {namespace}"
            force = "--server-side --force-conflicts --field-manager helm"
            others.append(f"{show} | {kubectl} apply {force} -f -")
        elif item.kind == "service" and "spec.ports" in str(item.fields):
            # The API server rejects the preview's dry run, because it merges both ports.
            others.append(f"pulumi up --skip-preview --stack {stack.name}")
        else:
            others.append(up)
    return [*dict.fromkeys(patches + others)]


def _release(cluster: Cluster, identity: str) -> list[Finding]:
    """Compare the objects of a Helm release, if its newest revision is deployed."""
    *_, newest = [None, *releases.revisions(cluster, *identity.split("/"))]
    if not newest:
        return [Finding("state", "release", identity, "deleted")]
    if newest.status != "deployed":
        reason = releases.UNFINISHED.get(newest.status, "no revision is deployed")
        change = f"revision {newest.number} is {newest.status}: {reason}"
        return [Finding("helm", "release", identity, change)]
    return _objects(cluster, f"release {identity}", releases.objects(cluster, newest))


def _objects(cluster: Cluster, layer: str, declared: Iterable[Mapping[str, Any]]) -> list[Finding]:
    return [item for obj in declared for item in compare(layer, obj, cluster.get(obj))]


def _engine(stack: Stack) -> list[Finding]:
    """Return the changes of `pulumi refresh`, and the stack's locks."""
    process = stack.cli("refresh", "--preview-only", "--expect-no-changes", "--json")
    preview: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        preview = json.loads(process.stdout)
    if process.returncode not in (0, DRIFT) or not preview:
        diagnostics = preview.get("diagnostics") or []
        # The first has the cause; later ones only report the failure.
        errors = [item["message"] for item in diagnostics if item["severity"] == "error"]
        line = " ".join((errors or [process.stderr or process.stdout])[0].split())
        raise UnreadableError(f"pulumi refresh: exit {process.returncode}: {line[:300]}")
    steps = [step for step in preview.get("steps") or [] if step["op"] in ("update", "delete")]
    counts = {op: n for op, n in (preview.get("changeSummary") or {}).items() if op != "same"}
    if len(steps) != sum(counts.values()):
        raise UnreadableError(f"pulumi refresh: got {len(steps)} steps, want {counts}")
    findings = [Finding("pulumi", "stack", stack.name, str(lock)) for lock in recover.locks(stack)]
    for step in steps:
        old, change = step["oldState"], "deleted" if step["op"] == "delete" else "changed"
        kind = old["type"].rpartition(":")[2].lower()
        # A release's values include passwords.
        fields = tuple(f"{path}: value not shown" for path in step.get("detailedDiff") or ())
        findings.append(Finding("state", kind, old["id"], change, fields))
    return findings
