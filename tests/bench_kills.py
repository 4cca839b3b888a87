"""Kills `up`, upgrades and `destroy` at chosen moments, runs `recover` and `up`; prints a table.

With the published charts in the folder that HOMELAB_CHARTS names, else with the sandbox's own and
MetalLB as the addon. Half an hour. Exit code 1 if anything is not as without a kill.
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
from kill_lab import HELM, IN_RELEASE, Run, end, held, objects, running, stack_of
from live_stack import LiveStack, quiet
from pulumi.automation import CommandError

from ops import releases, stacks
from ops.__main__ import main as ops
from ops.cluster import Cluster as Live
from ops.recover import export_state
from sandbox.build import Tools, build
from sandbox.engine import OWN_CHART

WENT = IN_RELEASE.replace("object.", "oldObject.")
OF = HELM + " && object.metadata.labels.name == '{}'"
WENT_OF = OF.replace("object.", "oldObject.")
CHARTS = ("kube-prometheus-stack", "metallb")


class Moment(NamedTuple):
    """When to kill what: the first request of a kind, held by the API server."""

    run: str
    """`first`, `destroy`, or the chart that is upgraded."""
    when: str
    verb: str
    resource: str
    condition: str = "true"


MOMENTS = (
    Moment("first", "a volume is made", "CREATE", "persistentvolumes"),
    Moment("first", "metallb is pending-install", "UPDATE", "secrets", OF.format("metallb")),
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
        OF.format("kube-prom-stack"),
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
        f"request.namespace == 'observability' && {WENT}",
    ),
    Moment(
        "destroy",
        "kube-prom-stack is purged",
        "DELETE",
        "secrets",
        WENT_OF.format("kube-prom-stack"),
    ),
    Moment("destroy", "a volume goes", "DELETE", "persistentvolumes"),
)


class Lab:
    """A stack, up, with charts in folders of its own."""

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
            # Or every label, of the pods, too, would change with it.
            helpers = path / "templates/_helpers.tpl"
            if helpers.exists():
                version = yaml.safe_load((path / "Chart.yaml").read_text())["version"]
                text = helpers.read_text().replace(".Chart.Version", f'"{version}"')
                helpers.write_text(text)
            self.change(name)
        self.live_stack = LiveStack(folder, tools, self.with_charts)
        self.live = Live(self.live_stack.cluster.context, self.live_stack.cluster.kubeconfig)
        self.wanted, self.number = self.objects(), 0

    def change(self, chart: str, number: int = 0) -> None:
        """Give a chart another version and one other ConfigMap."""
        about = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {chart}-moment-{number}}}\n"
        (self.charts[chart] / "templates/moment.yaml").write_text(about)
        sheet = yaml.safe_load((self.charts[chart] / "Chart.yaml").read_text())
        sheet["version"] = f"{sheet['version'].partition('-')[0]}-moment.{number}"
        (self.charts[chart] / "Chart.yaml").write_text(yaml.safe_dump(sheet))

    def objects(self) -> set[str]:
        """Give what there is, whatever the number of the last upgrade."""
        return {re.sub(r"-moment-\d+$", "-moment", one) for one in objects(self.live_stack)}

    def statuses(self) -> list[str]:
        """Give name, number and status of each revision that Helm keeps."""
        kept = releases.revisions(self.live)
        return [f"{one.name} {one.number} {one.status}" for one in kept]

    def settle(self) -> None:
        """Wait until plugins that live on have done what they had begun."""
        seen: list[tuple[float, list[str]]] = [(time.monotonic(), self.statuses())]
        while time.monotonic() - seen[0][0] < 3:
            time.sleep(0.2)
            if (now := self.statuses()) != seen[0][1]:
                seen = [(time.monotonic(), now)]

    def kill(self, moment: Moment, *, plugins: bool) -> tuple[str, str, list[str]]:
        """Kill at a moment, recover and `up`; give what was found, how `up` went, what is wrong."""
        if moment.run == "first":
            self.live_stack.engine.destroy(quiet)
        elif moment.run != "destroy":
            self.number += 1
            self.change(moment.run, self.number)
        with held(self.live_stack, *moment[2:]) as hold:
            verb = "destroy" if moment.run == "destroy" else "up"
            run = Run(self.live_stack, self.tools, verb)
            hold.reached()
            left = run.kill(plugins=plugins)
        self.settle()
        pods = {} if moment.run == "destroy" else running(self.live_stack)
        wrong: list[str] = []
        # A plugin ends by itself once it has answered a CLI that is gone.
        if left := [process for process in left if process.is_running()]:
            refused, _, errors = recover(self.live_stack)
            if not refused or "still runs" not in errors:
                wrong.append(f"recover beside {left}: {errors}")
            end(left)
        code, found, errors = recover(self.live_stack)
        wrong += [f"recover: {errors.strip()}"] if code else []
        lines: list[str] = []
        began = time.monotonic()
        try:
            self.live_stack.engine.up(lines.append)
        except CommandError:
            wrong.append(f"up: {' '.join(lines[-8:])}")
        took = f"{time.monotonic() - began:.0f} s"
        wrong += [line for line in lines if "cut off" in line]
        wrong += [f"not as before: {one}" for one in self.objects() ^ self.wanted]
        wrong += [f"restarted: {pod}" for pod in pods.items() - running(self.live_stack).items()]
        changes = self.live_stack.engine.preview()
        wrong += [f"preview: {changes}"] if set(changes) - {"same"} else []
        pending = export_state(stack_of(self.live_stack))["deployment"].get("pending_operations")
        wrong += [f"pending: {pending}"] if pending else []
        newest = dict(one.rsplit(" ", 2)[::2] for one in self.statuses())
        wrong += [f"{name} is {status}" for name, status in newest.items() if status != "deployed"]
        if moment.run in CHARTS:
            names = [one.metadata.name for one in self.configmaps()]
            if f"{moment.run}-moment-{self.number}" not in names:
                wrong.append("the upgrade was not applied")
        return "; ".join(short(line) for line in found.splitlines()[:-2]), took, wrong

    def with_charts(self, config: dict[str, Any]) -> None:
        """Name the charts in folders, with MetalLB's if it is among them."""
        config["homelab:charts"] = {name: str(path) for name, path in self.charts.items()}
        if "metallb" in self.charts:
            config["homelab:network"]["metallb"] = "helm"

    def configmaps(self) -> list[Any]:
        """Give all ConfigMaps."""
        return list(self.live_stack.core.list_config_map_for_all_namespaces().items)


def recover(live_stack: LiveStack) -> tuple[int, str, str]:
    """Run the command as its owner does; give its exit code, its output and its errors."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.object(stacks, "find", lambda _: stack_of(live_stack)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        return ops(["recover", "--yes"]), out.getvalue(), err.getvalue()


def short(line: str) -> str:
    """Give the part of what `recover` found that differs."""
    line = re.sub(r"the stack is locked by .*", "lock", line.strip())
    return re.sub(r"pending in the state: \w+ |release [\w-]+/|: an? \w+ was cut off", "", line)


def main() -> int:
    """Print one line for each kill, and give the exit code."""
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder), replace(build(), chart=None))
        try:
            for moment in MOMENTS:
                for plugins in (False, True):
                    if moment.run not in ("first", "destroy", *lab.charts):
                        continue
                    if "metallb" in moment.condition and "metallb" not in lab.charts:
                        continue
                    began = time.monotonic()
                    found, took, wrong = lab.kill(moment, plugins=plugins)
                    bad += bool(wrong)
                    who = "CLI and plugins" if plugins else "CLI alone"
                    result = "; ".join(wrong)[:600] or "as without a kill"
                    row = (moment.run, moment.when, who, found, f"up {took}", result)
                    print(f"| {' | '.join(row)} | {time.monotonic() - began:.0f} s |", flush=True)
        finally:
            lab.live_stack.cluster.remove()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
