"""Kills `up`, upgrades and `destroy` at many moments, runs `recover` and `up`; prints a table.

Uses the published charts in the folder HOMELAB_CHARTS, else the sandbox's chart and MetalLB as
addon. Takes half an hour. Exit code 1 if a result differs from one without a kill.
"""

import contextlib
import io
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import yaml
from kill_lab import HELM, IN_RELEASE, end, killed, objects, running, stack_of
from live_stack import LiveStack, quiet
from pulumi.automation import CommandError

from ops import releases, stacks
from ops.__main__ import main as ops
from ops.cluster import Cluster as Live
from ops.recover import export_state
from sandbox.build import Tools, build
from sandbox.engine import OWN_CHART

DELETED = IN_RELEASE.replace("object.", "oldObject.")
OF_RELEASE = HELM + " && object.metadata.labels.name == '{}'"
DELETED_OF = OF_RELEASE.replace("object.", "oldObject.")
CHARTS = ("kube-prometheus-stack", "metallb")


class Moment(NamedTuple):
    """The request that the API server holds while the command is killed."""

    run: str
    """`first`, `destroy`, or the chart that is upgraded."""
    when: str
    verb: str
    resource: str
    condition: str = "true"


MOMENTS = (
    Moment("first", "a volume is made", "CREATE", "persistentvolumes"),
    Moment(
        "first", "metallb is pending-install", "UPDATE", "secrets", OF_RELEASE.format("metallb")
    ),
    Moment(
        "first",
        "half of kube-prom-stack is made",
        "CREATE",
        "services",
        f"request.namespace == 'observability' && {IN_RELEASE}",
    ),
    Moment(
        "first",
        "kube-prom-stack is pending-install",
        "UPDATE",
        "secrets",
        OF_RELEASE.format("kube-prom-stack"),
    ),
    Moment("first", "alerts are made", "CREATE", "prometheusrules", f"!({IN_RELEASE})"),
    Moment(
        "first",
        "Deployments are waited for",
        "CREATE",
        "pods",
        "request.namespace == 'ollama-stack'",
    ),
    Moment(CHARTS[0], "half of it is upgraded", "CREATE", "configmaps", IN_RELEASE),
    Moment(CHARTS[0], "it is pending-upgrade", "UPDATE", "secrets", HELM),
    Moment(CHARTS[1], "half of it is upgraded", "CREATE", "configmaps", IN_RELEASE),
    Moment(CHARTS[1], "it is pending-upgrade", "UPDATE", "secrets", HELM),
    Moment(
        "destroy",
        "half of kube-prom-stack is gone",
        "DELETE",
        "services",
        f"request.namespace == 'observability' && {DELETED}",
    ),
    Moment(
        "destroy",
        "kube-prom-stack is purged",
        "DELETE",
        "secrets",
        DELETED_OF.format("kube-prom-stack"),
    ),
    Moment("destroy", "a volume goes", "DELETE", "persistentvolumes"),
)


class Bench:
    """A stack, up, with its charts in folders."""

    def __init__(self, folder: Path, tools: Tools) -> None:
        self.tools, published = tools, os.environ.get("HOMELAB_CHARTS")
        for name in CHARTS if published else ():
            (file,) = Path(str(published)).glob(f"{name}-*.tgz")
            with tarfile.open(file) as archive:
                archive.extractall(folder / "charts", filter="data")
        if not published:
            shutil.copytree(OWN_CHART, folder / "charts" / CHARTS[0])
        self.charts = {path.name: path for path in (folder / "charts").iterdir()}
        for name, path in self.charts.items():
            # Otherwise labels have the chart's version, and an upgrade replaces all pods.
            helpers = path / "templates/_helpers.tpl"
            if helpers.exists():
                version = yaml.safe_load((path / "Chart.yaml").read_text())["version"]
                text = helpers.read_text().replace(".Chart.Version", f'"{version}"')
                helpers.write_text(text)
            self.change(name)
        self.live_stack = LiveStack(folder, tools, self.with_charts)
        self.live = Live(self.live_stack.cluster.context, self.live_stack.cluster.kubeconfig)
        self.expected, self.number = self.objects(), 0

    def change(self, chart: str, number: int = 0) -> None:
        """Change a chart's version, and the name of its ConfigMap."""
        manifest = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {chart}-moment-{number}}}\n"
        (self.charts[chart] / "templates/moment.yaml").write_text(manifest)
        sheet = yaml.safe_load((self.charts[chart] / "Chart.yaml").read_text())
        sheet["version"] = f"{sheet['version'].partition('-')[0]}-moment.{number}"
        (self.charts[chart] / "Chart.yaml").write_text(yaml.safe_dump(sheet))

    def objects(self) -> set[str]:
        """Return the objects, without the number of the last upgrade."""
        return {re.sub(r"-moment-\d+$", "-moment", name) for name in objects(self.live_stack)}

    def statuses(self) -> list[str]:
        """Return name, number and status of each of Helm's revisions."""
        revisions = releases.revisions(self.live)
        return [f"{revision.name} {revision.number} {revision.status}" for revision in revisions]

    def settle(self) -> None:
        """Wait until running plugins have not changed a revision for 3 s."""
        states: list[tuple[float, list[str]]] = [(time.monotonic(), self.statuses())]
        while time.monotonic() - states[0][0] < 3:
            time.sleep(0.2)
            if (now := self.statuses()) != states[0][1]:
                states = [(time.monotonic(), now)]

    def kill(self, moment: Moment, *, plugins: bool) -> tuple[str, str, list[str]]:
        """Kill, recover, `up`; return the output of `recover`, the time of `up`, and all errors."""
        if moment.run == "first":
            self.live_stack.engine.destroy(quiet)
        elif moment.run != "destroy":
            self.number += 1
            self.change(moment.run, self.number)
        verb = "destroy" if moment.run == "destroy" else "up"
        plugins_left = killed(self.live_stack, self.tools, verb, *moment[2:], plugins=plugins)
        self.settle()
        pods = {} if moment.run == "destroy" else running(self.live_stack)
        problems: list[str] = []
        # A plugin ends when its answer to the dead CLI fails.
        if plugins_left := [process for process in plugins_left if process.is_running()]:
            refused, _, errors = recover(self.live_stack)
            if not refused or "still runs" not in errors:
                problems.append(f"recover beside {plugins_left}: {errors}")
            end(plugins_left)
        code, output, errors = recover(self.live_stack)
        problems += [f"recover: {errors.strip()}"] if code else []
        lines: list[str] = []
        began = time.monotonic()
        try:
            self.live_stack.engine.up(lines.append)
        except CommandError:
            problems.append(f"up: {' '.join(lines[-8:])}")
        took = f"{time.monotonic() - began:.0f} s"
        problems += [line for line in lines if "cut off" in line]
        problems += [f"not as before: {item}" for item in self.objects() ^ self.expected]
        problems += [f"restarted: {pod}" for pod in pods.items() - running(self.live_stack).items()]
        changes = self.live_stack.engine.preview()
        problems += [f"preview: {changes}"] if set(changes) - {"same"} else []
        pending = export_state(stack_of(self.live_stack))["deployment"].get("pending_operations")
        problems += [f"pending: {pending}"] if pending else []
        newest = dict(item.rsplit(" ", 2)[::2] for item in self.statuses())
        problems += [
            f"{name} is {status}" for name, status in newest.items() if status != "deployed"
        ]
        if moment.run in CHARTS:
            names = [item.metadata.name for item in self.configmaps()]
            if f"{moment.run}-moment-{self.number}" not in names:
                problems.append("the upgrade was not applied")
        return "; ".join(short(line) for line in output.splitlines()[:-2]), took, problems

    def with_charts(self, config: dict[str, Any]) -> None:
        """Set the folders of the charts, and MetalLB as a release if it is one of them."""
        config["homelab:charts"] = {name: str(path) for name, path in self.charts.items()}
        if "metallb" in self.charts:
            config["homelab:network"]["metallb"] = "helm"

    def configmaps(self) -> list[Any]:
        """Return all ConfigMaps."""
        return list(self.live_stack.core.list_config_map_for_all_namespaces().items)


def recover(live_stack: LiveStack) -> tuple[int, str, str]:
    """Run `make recover`; return exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(stacks, "find", lambda _: stack_of(live_stack)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        return ops(["recover", "--stack", "sandbox", "--yes"]), out.getvalue(), err.getvalue()


def short(line: str) -> str:
    """Shorten a line of `recover` to what differs between moments."""
    line = re.sub(r"the stack is locked by .*", "lock", line.strip())
    return re.sub(r"pending in the state: \w+ |release [\w-]+/|: an? \w+ was cut off", "", line)


def main() -> int:
    """Print one row for each kill; return the exit code."""
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), replace(build(), chart=None))
        try:
            for moment in MOMENTS:
                for plugins in (False, True):
                    if moment.run not in ("first", "destroy", *bench.charts):
                        continue
                    if "metallb" in moment.condition and "metallb" not in bench.charts:
                        continue
                    began = time.monotonic()
                    recovered, took, errors = bench.kill(moment, plugins=plugins)
                    failures += bool(errors)
                    victims = "CLI and plugins" if plugins else "CLI alone"
                    result = "; ".join(errors)[:600] or "as without a kill"
                    row = (moment.run, moment.when, victims, recovered, f"up {took}", result)
                    print(f"| {' | '.join(row)} | {time.monotonic() - began:.0f} s |", flush=True)
        finally:
            bench.live_stack.cluster.remove()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
