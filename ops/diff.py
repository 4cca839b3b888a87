"""Preview a change without the server's state, its secrets or its cluster.

The engine applies the commit BASE to a cluster in `.sandbox/diff`, then previews the working tree.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pulumi.automation import CommandError, EngineEvent, StepEventMetadata

from components import CHART_VALUES
from config import SettingsError, read, requested
from config.stack_file import project_keys, read_config, without_secrets
from sandbox.build import FOLDER, Tools, build
from sandbox.cluster import Cluster, Node
from sandbox.engine import PROJECT, Engine
from sandbox.processes import SandboxError, locked, readable_errors, write_private

LIMIT = 10
NODE = ("cpus", "memory", "address")
PLACEHOLDER = "encrypted@example.org"
"""For an encrypted value; valid as a text, and as an e-mail address."""
TOPICS = ("data", "deleted", "replaced", "reachable", "restarts", "downloaded")
DATA = "PersistentVolume PersistentVolumeClaim StorageClass Namespace RandomPassword Secret"
ACCESS = "Service NetworkPolicy IPAddressPool Role ClusterRole RoleBinding ClusterRoleBinding"
"""Kinds that hold data, and those whose every change lets somebody in or out."""
OPENS = re.compile("host(Port|Network|PID)|pod-security|service.type|ingress|anonymous|SIGNUP|AUTH")
"""What does so in the other kinds."""
NOISE = re.compile(r"warning: (using|resource plugin)|Retry #\d+; .* is forbidden: ")
APPLY = """
from pathlib import Path, PosixPath
from sandbox.build import Tools
from sandbox.cluster import Cluster
from sandbox.engine import Engine
Engine(Cluster({0!r}, {1!r}, context={2!r}), {1!r}, Path.cwd(), {3!r}, {4!r}).up(print)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="home", help="whose Pulumi.<stack>.yaml it reads")
    parser.add_argument("--base", default="main", help="the commit to compare with")


def run(options: argparse.Namespace) -> int:
    """Print what the working tree would change; 1 is an error in one line."""
    # A program that is cut off, because the engine has ended, says so with a traceback.
    logging.disable()
    try:
        # Progress is no part of the report.
        with readable_errors(FOLDER), contextlib.redirect_stdout(sys.stderr):
            report = compare(PROJECT, FOLDER / "diff", build(), options.stack, options.base)
    except (SandboxError, SettingsError, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted; run the same command again'}", file=sys.stderr)
        return 1
    print(report)
    return 0


def compare(project: Path, folder: Path, tools: Tools, stack: str, base: str) -> str:
    """The report on the working tree of `project`; `folder` keeps the cluster for the next one.

    Raises SettingsError or SandboxError. No process of its own outlives it.
    """
    with locked(folder):
        tree, file = folder / "base", f"Pulumi.{stack}.yaml"
        commit = _extract(project, tree, base)
        there = (tree / file).exists()
        after, secret = without_secrets(project_keys(read_config(project / file)), PLACEHOLDER)
        before, more = without_secrets(
            project_keys(read_config(tree / file)) if there else {}, PLACEHOLDER
        )
        notes = [] if there else [f"{base} has no {file}: all is new"]
        notes += [f"not compared: {key}, which is encrypted" for key in sorted({*secret, *more})]
        read(after, requested(CHART_VALUES))
        notes += _place_charts(tools, {tree: before, project: after} if there else {project: after})
        for key in ("context", "protect"):
            if before and before.get(key) != after.get(key):
                notes.append(f"{key}: {before.get(key)} -> {after.get(key)}, not looked at here")
        at = before or after
        try:
            context, metallb = at["context"], at["network"].get("metallb") == "addon"
            nodes = [Node(name=name, **{k: v[k] for k in NODE}) for name, v in at["nodes"].items()]
        except (AttributeError, KeyError, TypeError) as error:
            raise SandboxError(f"BASE: {base}: {file}: {error!r}; want a newer commit") from error
        cluster = Cluster(folder / "cluster", tools, context=context, metallb=metallb)
        # Protected, the engine would end at the first refusal and show nothing of the rest.
        after |= {"context": context, "protect": False}
        engine = Engine(cluster, tools, project, stack, after, refresh=False)
        kept, key = cluster.folder / "applied.json", f"{commit} {stack} {before}"
        protected = json.loads(kept.read_text()).get(key) if kept.exists() else None
        events, printed = list[EngineEvent](), list[str]()
        try:
            if protected is None:
                cluster.remove()
            print(f"  cluster: starting, for {base}", flush=True)
            cluster.start(nodes)
            if protected is None:
                script = APPLY.format(cluster.folder, tools, context, stack, before)
                protected = _apply(project, tree, engine, base, script) if there else []
                write_private(kept, json.dumps({key: protected}))
            print("  preview: asking the engine", flush=True)
            engine.preview(printed.append, events.append)
        except CommandError as error:
            why = _reason("\n".join(printed))
            raise SandboxError(f"{stack} cannot be previewed: {why}") from error
        finally:
            cluster.stop()
    told = summary(events, protected, notes)
    return "\n".join([*told, "", *(line for line in printed if not NOISE.match(line))])


def _extract(project: Path, tree: Path, base: str) -> str:
    """Have the files of `base` in `tree`, with this sandbox; give the commit's hash."""
    git, archive = ["git", "-C", str(project)], tree.with_suffix(".tar")
    ask = [*git, "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}"]
    if not (commit := subprocess.run(ask, capture_output=True, text=True).stdout.strip()):
        raise SandboxError(f"BASE: got {base!r}, want a commit, a branch or a tag, such as main")
    subprocess.run([*git, "archive", f"--output={archive}", commit], check=True)
    shutil.rmtree(tree, ignore_errors=True)
    shutil.unpack_archive(archive, tree, filter="data")
    if not (tree / "config/versions.py").exists():
        raise SandboxError(f"BASE: {base} has no config/versions.py; want a newer commit")
    # This sandbox, and what it takes of `ops`; program and settings stay BASE's.
    for name in ("ops", "sandbox"):
        shutil.copytree(PROJECT / name, tree / name, dirs_exist_ok=True)
    return commit


def _charts(tree: Path, keys: dict[str, Any]) -> set[tuple[str, str]]:
    pins = dict(re.findall(r'^(\w+) = "(.+)"', (tree / "config/versions.py").read_text(), re.M))
    kube = keys.get("observability", {}).get("chart_version", pins["KUBE_PROMETHEUS_STACK"])
    return {("kube-prometheus-stack", kube), ("metallb", pins["METALLB"])}


def _place_charts(tools: Tools, sources: dict[Path, dict[str, Any]]) -> list[str]:
    """Name a chart that can be had in all keys; give a line for each that is new, or cannot."""
    charts = [_charts(tree, keys) for tree, keys in sources.items()]
    folder = Path(os.environ.get("HOMELAB_CHARTS") or "/nowhere")
    files = {name: folder / f"{name}-{version}.tgz" for name, version in sorted(charts[-1])}
    had = {name: str(file) for name, file in files.items() if file.exists()}
    missing = [] if tools.chart else sorted(files.keys() - had.keys())
    for keys in sources.values():
        keys["charts"] = had
        if "metallb" in missing:
            keys["network"] = {**keys.get("network", {}), "metallb": "addon"}
    new = [f"downloaded: chart {' '.join(chart)}" for chart in sorted(charts[-1] - charts[0])]
    return new + [f"not compared: what is in {name}, which cannot be had" for name in missing]


def _apply(project: Path, tree: Path, engine: Engine, base: str, script: str) -> list[str]:
    """Apply the program in `tree`, with its own packages; give the URNs of what it protects."""
    env = {**os.environ, "PYTHONPATH": str(tree / ".packages")}
    steps = {"applying, half a minute or more": ["-c", script]}
    if (tree / "requirements.txt").read_text() != (project / "requirements.txt").read_text():
        pip = ["-m", "pip", "install", "--quiet", "--target=.packages", "-rrequirements.txt"]
        steps = {"installing its packages": pip, **steps}
    for what, words in steps.items():
        print(f"  {base}: {what}", flush=True)
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        if done.returncode:
            why = _reason(done.stdout + done.stderr)
            refused = ": its own program refuses the stack file" if " homelab:" in why else ""
            raise SandboxError(f"BASE: {base} cannot be brought up{refused}: {why}; want another")
    made = json.loads(engine.cli("stack", "export").stdout)["deployment"]["resources"]
    engine.cli("state", "unprotect", "--all", "--yes")
    return [one["urn"] for one in made if one.get("protect")]


def _reason(printed: str) -> str:
    """The first error in what the engine or Python printed, or else its last line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["no output"]
    at = next((n for n, line in enumerate(lines) if line.startswith("error: ")), -1)
    return " ".join(lines[at:][:2]) if lines[at].endswith(":") else lines[at]


def summary(events: Iterable[EngineEvent], protected: list[str], notes: list[str]) -> list[str]:
    """At most LIMIT lines: what a preview's events do to what is there, by TOPICS; then `notes`."""
    lines, old, new = set[str](), set[str](), dict[Any, set[str]]()
    for event in events:
        if happened := event.resource_pre_event or event.res_outputs_event:
            step = happened.metadata
            lines.update(_lines(step, step.urn in protected))
            old.update(_downloads(step.old and [step.old.inputs, step.old.outputs]))
            # The stack's own outputs are the old ones until its last event.
            new[step.urn, step.op] = {*_downloads(step.new and [step.new.inputs, step.new.outputs])}
    there = set[str]().union(*new.values())
    lines |= {f"downloaded: {what}" for what in there - old}
    lines |= {f"deleted: {what}" for what in old - there if what.startswith("model ")}
    ranked = {line: (TOPICS.index(line.partition(":")[0]), " is " not in line) for line in lines}
    found = sorted(lines, key=lambda line: (ranked[line], line))
    if len(found) > (room := LIMIT - len(notes)):
        found[room - 1 :] = [f"and {len(found) - room + 1} more"]
    return [*found, *notes]


def _lines(step: StepEventMetadata, protected: bool) -> Iterator[str]:
    """Yield a line, after its topic, for each thing that a step does to what is there."""
    kind, op, paths = step.type.rpartition(":")[2], step.op.value, [*(step.detailed_diff or {})]
    old, new = ((state and state.inputs) or {} for state in (step.old, step.new))
    name = {"name": step.urn.rpartition("::")[2], **((new or old).get("metadata") or new or old)}
    title = f"{kind} {'/'.join(name[key] for key in ('namespace', 'name') if key in name)}"
    access, data = kind in ACCESS.split(), kind in DATA.split()

    def how(paths: list[str]) -> str:
        return "; ".join(f"{at}: {_value(old, at)} -> {_value(new, at)}" for at in paths[:3])

    def opens(path: str) -> bool:
        variable = _value(new, path.removesuffix("value") + "name")
        return access or bool(OPENS.search(f"{path} {_value(new, path)} {variable}"))

    if op == "delete" or (op == "replace" and kind not in ("Deployment", "Job")):
        refused = "; refused, it is protected" if protected else ""
        reason = f" because of {how(paths)}" if paths else ""
        yield f"{'data' if data else f'{op}d'}: {title} is {op}d{reason}{refused}"
    elif data and op == "update":
        yield f"data: {title}, {how(paths)}"
    if (opened := [*filter(opens, paths)]) or (access and op in ("create", "delete", "replace")):
        yield f"reachable: {title}, {how(opened) or f'{op}d'}"
    if kind in ("Deployment", "Job") and (op == "replace" or "spec.template" in " ".join(paths)):
        yield f"restarts: {title}"
    if kind == "Release" and op == "update":
        yield f"restarts: what Helm changes of {title}"


def _value(inputs: Any, path: str) -> str:
    """The value at a path of the engine's, such as `spec.ports[0].name`, in 60 characters."""
    for quoted, index, plain in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        try:
            inputs = inputs[int(index)] if index else inputs[quoted or plain]
        except (KeyError, IndexError, TypeError):
            return "none"
    return textwrap.shorten(str(inputs), 60, placeholder="…")


def _downloads(tree: Any) -> Iterator[str]:
    """Yield each image and model that is in what a step has of inputs and outputs."""
    if isinstance(tree, dict):
        yield from (f"image {image}" for image in [tree.get("image")] if isinstance(image, str))
        yield from (f"model {model}" for model in tree.get("models", []) if isinstance(model, str))
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []:
        yield from _downloads(item)
