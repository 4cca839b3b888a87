"""Compare the cluster with what the last `up` declared; nothing is written.

Exit code 0 is no drift, 7 drift, 1 that something could not be read, whatever else was found.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from ops import recover, releases, stacks
from ops.cluster import LAST_DAYS, Cluster, UnreadableError, certificate_days, kubelet_days
from ops.drift_fields import Finding, compare
from ops.stacks import Stack

DRIFT = stacks.CHANGES
KUBELET = "kubelet-certificate"
RUNS = ("helm", "pulumi")  # layers of what a run that was cut off has left


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="sandbox", help="the stack to compare")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Compare, print and give the exit code."""
    findings, unread, commands = list[Finding](), list[str](), list[str]()
    try:
        stack = stacks.find(options.stack)
        state = stacks.deployment(stack)
        print(f"comparing {len(state['resources'])} resources", file=sys.stderr)  # no finding
        findings, unread = check(stack, state)
        commands = answers(findings, stack, state["context"])
    except UnreadableError as error:
        unread = [str(error)]
    code = 1 if unread else DRIFT if findings else 0
    if options.json:
        report = {"findings": [asdict(one) for one in findings], "unread": unread, "code": code}
        print(json.dumps({"stack": options.stack, **report}, indent=1))
    elif findings:
        for one in findings:
            print(f"  {one.layer}: {one.kind} {one.where}: {one.change}", *one.fields, sep="\n    ")
        print("\nto put it back, in this order:", *commands, sep="\n  ")
    elif not unread:
        print("no drift", file=sys.stderr)
    if unread:
        more = f"; and {rest} more" if (rest := len(unread) - 1) else ""
        print(f"error: could not check {options.stack}: {unread[0]}{more}", file=sys.stderr)
    return code


def check(stack: Stack, state: Mapping[str, Any]) -> tuple[list[Finding], list[str]]:
    """List what was found, and what could not be read and why; raises UnreadableError if all."""
    cluster = Cluster(state["context"], stack.kubeconfig)
    findings, unread = _certificates(cluster), list[str]()
    for one in state.get("pending_operations") or []:
        name = one["resource"]["urn"].rpartition("::")[2]
        findings.append(Finding("pulumi", "resource", name, f"cut off while {one['type']} it"))
    with ThreadPoolExecutor(8) as pool:
        engine = pool.submit(_engine, stack)
        looks = [
            pool.submit(_release, cluster, one["id"])
            if one["type"] == recover.RELEASE
            else pool.submit(_objects, cluster, "state", [one["inputs"]])
            for one in state["resources"]
            if one["type"].startswith("kubernetes:")
        ]
        for look in [*looks, engine]:
            # What the engine finds is there already, field by field, but for the releases.
            seen = {(one.kind.partition(".")[0], one.where) for one in findings}
            try:
                findings += [one for one in look.result() if (one.kind, one.where) not in seen]
            except UnreadableError as error:
                unread.append(str(error))
    return sorted(findings, key=lambda one: (one.layer not in RUNS, one)), unread


def _certificates(cluster: Cluster) -> list[Finding]:
    """What ends soon: without the one no command of this laptop works, without the other no log."""
    about = cluster.configuration
    return [
        Finding("server", kind, about.host, f"ends in {days:.0f} days")
        for kind, days in (
            ("certificate", certificate_days(about)),
            (KUBELET, kubelet_days(about)),
        )
        if days is not None and days <= LAST_DAYS
    ]


def answers(findings: Sequence[Finding], stack: Stack, context: str) -> list[str]:
    """Give the commands that put back what was found, in the order to run them."""
    up = "make up" if stack.simulated else f"make up STACK={stack.name}"
    if any(one.layer in RUNS for one in findings):
        return [releases.recover(stack.name), up]
    env = f"KUBECONFIG={shlex.quote(str(stack.kubeconfig))} " if stack.kubeconfig else ""
    kubectl, patches, others = f"{env}kubectl --context {context}", list[str](), list[str]()
    for one in findings:
        namespace, _, name = one.where.rpartition("/")
        if one.added:
            # With who has them, or a default would stay another's; last first, because an index
            # moves when an earlier element goes; and only as long as nothing else has changed.
            paths = [*(f"/metadata/managedFields/{n}" for n in one.by), *one.added]
            same = {"op": "test", "path": "/metadata/resourceVersion", "value": one.version}
            patch = [same, *({"op": "remove", "path": path} for path in reversed(paths))]
            what = f"{one.kind} {name}" + (f" -n {namespace}" if namespace else "")
            how = f"--type json --field-manager helm -p {shlex.quote(json.dumps(patch))}"
            patches.append(f"{kubectl} patch {what} {how}")
        if one.change == "changed" and len(one.fields) == len(one.added):
            continue
        if one.kind == KUBELET:
            others.append("docs/drift.md#how-to-answer, the kubelet's certificate  # on the server")
        elif one.layer == "server":
            others.append("sudo microk8s refresh-certs -e server.crt  # on the server")
        elif one.layer != "state":
            place, _, helm = one.layer.removeprefix("release ").partition("/")
            show = f"{env}helm --kube-context {context} get manifest {helm} -n {place}"
            force = "--server-side --force-conflicts --field-manager helm"
            others.append(f"{show} | {kubectl} apply {force} -f -")
        elif one.kind == "service" and "spec.ports" in str(one.fields):
            # In the preview the API server refuses it: kubectl's port is still there beside ours.
            others.append(f"pulumi up --skip-preview --stack {stack.name}")
        else:
            others.append(up)
    return [*dict.fromkeys(patches + others)]


def _release(cluster: Cluster, identity: str) -> list[Finding]:
    """Compare what Helm made for a release, if it has finished."""
    *_, newest = [None, *releases.revisions(cluster, *identity.split("/"))]
    if not newest:
        return [Finding("state", "release", identity, "deleted")]
    if newest.status != "deployed":
        why = f"{newest.status}: {releases.UNFINISHED.get(newest.status, 'nothing is deployed')}"
        return [Finding("helm", "release", identity, f"revision {newest.number} is {why}")]
    return _objects(cluster, f"release {identity}", releases.objects(cluster, newest))


def _objects(cluster: Cluster, layer: str, declared: Iterable[Mapping[str, Any]]) -> list[Finding]:
    return [found for one in declared for found in compare(layer, one, cluster.get(one))]


def _engine(stack: Stack) -> list[Finding]:
    """What Pulumi itself calls changed or deleted, and who holds the stack's lock."""
    found = stacks.printed(stack, "refresh", "--preview-only", "--expect-no-changes", "--json")
    steps = [one for one in found.get("steps") or [] if one["op"] in ("update", "delete")]
    counts = {op: n for op, n in (found.get("changeSummary") or {}).items() if op != "same"}
    if len(steps) != sum(counts.values()):
        raise UnreadableError(f"pulumi refresh counts {counts}, but names {len(steps)}")
    findings = [Finding("pulumi", "stack", stack.name, str(x)) for x in recover.locks(stack)]
    for one in steps:
        old, change = one["oldState"], "deleted" if one["op"] == "delete" else "changed"
        kind = old["type"].rpartition(":")[2].lower()
        # A release's have passwords.
        fields = tuple(f"{path}: value not shown" for path in one.get("detailedDiff") or ())
        findings.append(Finding("state", kind, old["id"], change, fields))
    return findings
