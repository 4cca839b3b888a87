"""Compare the cluster with the stack's state, and with what Helm made for its releases.

Exit code 0 is no drift, 7 drift, 1 that something could not be read, whatever else was found.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial

from ops import drift_declared, drift_release, stacks
from ops.cluster import Cluster, UnreadableError
from ops.drift_declared import State
from ops.findings import Finding
from ops.stacks import Stack

DRIFT = 7


@dataclass
class Report:
    """What a look at a stack has brought."""

    stack: str
    findings: list[Finding] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """What could not be read, and why."""
    looked_at: str = ""
    seconds: float = 0

    @property
    def code(self) -> int:
        """The exit code that says it."""
        return 1 if self.unread else DRIFT if self.findings else 0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="sandbox", help="the stack to compare")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Compare, print and give the exit code."""
    began, state = time.monotonic(), None
    report = Report(options.stack)
    try:
        stack = stacks.find(options.stack)
        state = drift_declared.state(stack.cli)
        report = check(stack, state)
    except UnreadableError as error:
        report.unread.append(str(error))
    report.seconds = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps({**asdict(report), "code": report.code}, indent=1))
    elif report.findings and state:
        print("\n".join([*table(report.findings), "", *answers(report, stack, state)]))
    elif not report.unread:
        # Not among the findings: there are none, and whoever collects them gets nothing.
        told = f"no drift: {report.looked_at}; {report.seconds:.0f} s"
        print(told, file=sys.stderr)
    if report.unread:
        more = f"; and {rest} more" if (rest := len(report.unread) - 1) else ""
        print(f"error: could not check {options.stack}: {report.unread[0]}{more}", file=sys.stderr)
    return report.code


def check(stack: Stack, state: State) -> Report:
    """Look at everything; raises UnreadableError if the cluster cannot be reached at all."""
    report = Report(stack.name)
    cluster = Cluster(state.context, stack.kubeconfig)
    looks: list[Callable[[], list[Finding]]] = [partial(drift_declared.refresh, stack.cli)]
    objects = 0
    for namespace, name in state.releases:
        try:
            manifest = drift_release.manifest(cluster, namespace, name)
        except UnreadableError as error:
            report.unread.append(str(error))
            continue
        if manifest is not None:
            objects += len(manifest)
            looks.append(partial(drift_release.findings, cluster, manifest))
        else:
            report.unread.append(f"release {namespace}/{name}: Helm has none that is deployed")
    with ThreadPoolExecutor(len(looks)) as pool:
        for look in [pool.submit(one) for one in looks]:
            try:
                report.findings += look.result()
            except UnreadableError as error:
                report.unread.append(str(error))
    report.findings.sort()
    report.looked_at = f"{len(state.objects)} declared objects, {objects} of releases"
    return report


def table(findings: Iterable[Finding]) -> list[str]:
    """Give one line for each object and, indented, one for each field that differs."""
    return [
        line
        for one in findings
        for line in (
            f"  {one.layer}: {one.kind} {one.where}: {one.change}",
            *(f"    {field}" for field in one.fields),
        )
    ]


def answers(report: Report, stack: Stack, state: State) -> list[str]:
    """Give the commands that put back what was found, and what to do to keep it instead."""
    up = "make up" if stack.simulated else f"make up STACK={stack.name}"
    chosen = f"KUBECONFIG={shlex.quote(str(stack.kubeconfig))} " if stack.kubeconfig else ""
    kubectl = f"{chosen}kubectl --context {shlex.quote(state.context)}"
    helm = f"{chosen}helm --kube-context {shlex.quote(state.context)}"
    layers = {one.layer for one in report.findings}
    back, keep = [], []
    if "release" in layers:
        for namespace, name in state.releases:
            show = f"{helm} -n {namespace} get manifest {name}"
            back.append(f"{show} | {kubectl} apply --server-side --force-conflicts -f -")
        keep.append("set the chart's value in components/observability/values.yaml")
    if "declared" in layers:
        back.append(up)
        keep.append("write it into the program or the stack file")
    return [
        "to put it back:",
        *(f"  {command}" for command in back),
        f"to keep it, each followed by {up}, whose preview must then show no other change:",
        *(f"  {advice}" for advice in keep),
    ]
