"""Preview a change without the server's state, secrets and cluster.

Pulumi deploys the commit BASE to a cluster in `.sandbox/diff`, then previews the working tree.
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
from ops import stacks
from ops.cluster import UnreadableError
from sandbox.build import FOLDER, Tools, build
from sandbox.cluster import Cluster, Node
from sandbox.engine import PROJECT, Engine
from sandbox.processes import SandboxError, locked, readable_errors, write_private

LIMIT = 10
NODE = ("cpus", "memory", "address")
PLACEHOLDER = "encrypted@example.org"
"""Replaces an encrypted value; valid as a string, and as an e-mail address."""
TOPICS = ("data", "deleted", "replaced", "reachable", "restarts", "downloaded")
DATA = "PersistentVolume PersistentVolumeClaim StorageClass Namespace RandomPassword Secret"
"""Kinds that hold data."""
ACCESS = "Service NetworkPolicy IPAddressPool Role ClusterRole RoleBinding ClusterRoleBinding"
"""Kinds whose every change grants or denies access."""
OPENS = re.compile("host(Port|Network|PID)|pod-security|service.type|ingress|anonymous|SIGNUP|AUTH")
"""Paths and values that do so in other kinds."""
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
    parser.add_argument("--base", default="main", help="the commit to compare with")


def run(options: argparse.Namespace) -> int:
    """Print the preview; returns 1 after an error of one line."""
    # A program that the engine ends early logs a traceback.
    logging.disable()
    try:
        # Before a build, which may take minutes.
        _keys(stacks.stack_file(options.stack))
        # Progress is not part of the report.
        with readable_errors(FOLDER), contextlib.redirect_stdout(sys.stderr):
            report = compare(PROJECT, FOLDER / "diff", build(), options.stack, options.base)
    except (SandboxError, SettingsError, UnreadableError, KeyboardInterrupt) as error:
        print(f"error: {str(error) or 'interrupted; run the same command again'}", file=sys.stderr)
        return 1
    print(report)
    return 0


def compare(project: Path, folder: Path, tools: Tools, stack: str, base: str) -> str:
    """Return the report on the working tree of `project`; `folder` keeps the cluster.

    Raises SettingsError or SandboxError. All processes are stopped at the end.
    """
    tree, file = folder / "base", f"Pulumi.{stack}.yaml"
    with locked(folder), _extracted(project, tree, base) as commit:
        is_new = not (tree / file).exists()
        after, secrets = _keys(project / file)
        before, old_secrets = without_secrets(
            {} if is_new else project_keys(read_config(tree / file)), PLACEHOLDER
        )
        notes = [f"{base} has no {file}: everything is new"] if is_new else []
        encrypted = sorted({*secrets, *old_secrets})
        notes += [f"not compared: {key}, which is encrypted" for key in encrypted]
        notes += _place_charts(
            tools, {project: after} if is_new else {tree: before, project: after}
        )
        for key in ("context", "protect"):
            if before and before.get(key) != after.get(key):
                notes.append(f"not compared: {key}: {before.get(key)} -> {after.get(key)}")
        keys = before or after
        try:
            context, metallb = keys["context"], keys["network"].get("metallb") == "addon"
            nodes = [
                Node(name=name, **{key: node[key] for key in NODE})
                for name, node in keys["nodes"].items()
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise SandboxError(f"BASE: {base}: {file}: {error!r}; want a newer commit") from error
        cluster = Cluster(folder / "cluster", tools, context=context, metallb=metallb)
        # Unprotected, because Pulumi stops a preview at the first protected resource.
        after |= {"context": context, "protect": False}
        engine = Engine(cluster, tools, project, stack, after, refresh=False)
        cache, cache_key = cluster.folder / "applied.json", f"{commit} {stack} {before}"
        protected = json.loads(cache.read_text()).get(cache_key) if cache.exists() else None
        events, printed = list[EngineEvent](), list[str]()
        try:
            if protected is None:
                cluster.remove()
            print(f"  cluster: starting, for {base}", flush=True)
            cluster.start(nodes)
            if protected is None:
                script = APPLY.format(cluster.folder, tools, context, stack, before)
                protected = [] if is_new else _apply(project, tree, engine, base, script)
                write_private(cache, json.dumps({cache_key: protected}))
            print("  preview: running", flush=True)
            engine.preview(printed.append, events.append)
        except CommandError as error:
            reason = _reason("\n".join(printed))
            raise SandboxError(f"{stack} cannot be previewed: {reason}") from error
        finally:
            cluster.stop()
    lines = summary(events, protected, notes)
    return "\n".join([*lines, "", *(line for line in printed if not NOISE.match(line))])


def _keys(file: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a stack file's keys, and those that are encrypted; raises SettingsError."""
    keys, secrets = without_secrets(project_keys(read_config(file)), PLACEHOLDER)
    read(keys, requested(CHART_VALUES))
    return keys, secrets


@contextlib.contextmanager
def _extracted(project: Path, tree: Path, base: str) -> Iterator[str]:
    """Give the hash of the commit `base`, which is in `tree` until the end, with this sandbox."""
    git, archive = ["git", "-C", str(project)], tree.with_suffix(".tar")
    command = [*git, "rev-parse", "--quiet", "--verify", f"{base}^{{commit}}"]
    if not (commit := subprocess.run(command, capture_output=True, text=True).stdout.strip()):
        raise SandboxError(f"BASE: got {base!r}, want a commit, a branch or a tag, such as main")
    subprocess.run([*git, "archive", f"--output={archive}", commit], check=True)
    shutil.rmtree(tree, ignore_errors=True)
    try:
        shutil.unpack_archive(archive, tree, filter="data")
        archive.unlink()
        if not (tree / "config/versions.py").exists():
            raise SandboxError(f"BASE: {base} has no config/versions.py; want a newer commit")
        # The sandbox and `ops` of the working tree; program and settings stay BASE's.
        for name in ("ops", "sandbox"):
            shutil.copytree(PROJECT / name, tree / name, dirs_exist_ok=True)
        yield commit
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _charts(tree: Path, keys: dict[str, Any]) -> set[tuple[str, str]]:
    pins = dict(re.findall(r'^(\w+) = "(.+)"', (tree / "config/versions.py").read_text(), re.M))
    kube = keys.get("observability", {}).get("chart_version", pins["KUBE_PROMETHEUS_STACK"])
    return {("kube-prometheus-stack", kube), ("metallb", pins["METALLB"])}


def _place_charts(tools: Tools, sources: dict[Path, dict[str, Any]]) -> list[str]:
    """Set all available charts in the keys; returns a line for each new or missing chart."""
    charts = [_charts(tree, keys) for tree, keys in sources.items()]
    folder = Path(os.environ.get("HOMELAB_CHARTS") or "/nowhere")
    files = {name: folder / f"{name}-{version}.tgz" for name, version in sorted(charts[-1])}
    available = {name: str(file) for name, file in files.items() if file.exists()}
    missing = [] if tools.chart else sorted(files.keys() - available.keys())
    for keys in sources.values():
        keys["charts"] = available
        if "metallb" in missing:
            keys["network"] = {**keys.get("network", {}), "metallb": "addon"}
    new = [f"downloaded: chart {' '.join(chart)}" for chart in sorted(charts[-1] - charts[0])]
    return new + [f"not compared: chart {name}, which is not available" for name in missing]


def _apply(project: Path, tree: Path, engine: Engine, base: str, script: str) -> list[str]:
    """Deploy the program in `tree` with its own packages; returns the protected URNs."""
    env = {**os.environ, "PYTHONPATH": str(tree / ".packages")}
    steps = {"deploying, 30 s or more": ["-c", script]}
    if (tree / "requirements.txt").read_text() != (project / "requirements.txt").read_text():
        pip = ["-m", "pip", "install", "--quiet", "--target=.packages", "-rrequirements.txt"]
        steps = {"installing its packages": pip, **steps}
    for description, arguments in steps.items():
        print(f"  {base}: {description}", flush=True)
        command = [sys.executable, *arguments]
        result = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        if result.returncode:
            reason = _reason(result.stdout + result.stderr)
            invalid = ": its program rejects its stack file" if " homelab:" in reason else ""
            raise SandboxError(
                f"BASE: {base} cannot be deployed{invalid}: {reason}; choose another BASE"
            )
    resources = json.loads(engine.cli("stack", "export").stdout)["deployment"]["resources"]
    engine.cli("state", "unprotect", "--all", "--yes")
    return [resource["urn"] for resource in resources if resource.get("protect")]


def _reason(printed: str) -> str:
    """Return the first error in the output of Pulumi or Python, or its last line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["no output"]
    index = next((n for n, line in enumerate(lines) if line.startswith("error: ")), -1)
    return " ".join(lines[index:][:2]) if lines[index].endswith(":") else lines[index]


def summary(events: Iterable[EngineEvent], protected: list[str], notes: list[str]) -> list[str]:
    """Return at most LIMIT lines: the changes of a preview by TOPICS, then `notes`."""
    lines, old, new = set[str](), set[str](), dict[Any, set[str]]()
    for event in events:
        if resource_event := event.resource_pre_event or event.res_outputs_event:
            step = resource_event.metadata
            lines.update(_lines(step, step.urn in protected))
            old.update(_downloads(step.old and [step.old.inputs, step.old.outputs]))
            # The stack's outputs are the old ones until its last event.
            new[step.urn, step.op] = {*_downloads(step.new and [step.new.inputs, step.new.outputs])}
    current = set[str]().union(*new.values())
    lines |= {f"downloaded: {name}" for name in current - old}
    lines |= {f"deleted: {name}" for name in old - current if name.startswith("model ")}
    ranked = {line: (TOPICS.index(line.partition(":")[0]), " is " not in line) for line in lines}
    changes = sorted(lines, key=lambda line: (ranked[line], line))
    if len(changes) > (limit := LIMIT - len(notes)):
        changes[limit - 1 :] = [f"and {len(changes) - limit + 1} more"]
    return [*changes, *notes]


def _lines(step: StepEventMetadata, protected: bool) -> Iterator[str]:
    """Yield a line, beginning with its topic, for each effect of a step."""
    kind, op, paths = step.type.rpartition(":")[2], step.op.value, [*(step.detailed_diff or {})]
    old, new = ((state and state.inputs) or {} for state in (step.old, step.new))
    name = {"name": step.urn.rpartition("::")[2], **((new or old).get("metadata") or new or old)}
    title = f"{kind} {'/'.join(name[key] for key in ('namespace', 'name') if key in name)}"
    access, data = kind in ACCESS.split(), kind in DATA.split()

    def changes(paths: list[str]) -> str:
        values = [(path, _value(old, path), _value(new, path)) for path in paths[:3]]
        # Equal if both are secret.
        return "; ".join(f"{path}: {a} -> {b}" if a != b else path for path, a, b in values)

    def opens(path: str) -> bool:
        variable = _value(new, path.removesuffix("value") + "name")
        return access or bool(OPENS.search(f"{path} {_value(new, path)} {variable}"))

    if op == "delete" or (op == "replace" and kind not in ("Deployment", "Job")):
        refusal = "; refused: it is protected" if protected else ""
        reason = f" because of {changes(paths)}" if paths else ""
        yield f"{'data' if data else f'{op}d'}: {title} is {op}d{reason}{refusal}"
    elif data and op == "update":
        yield f"data: {title}, {changes(paths)}"
    if (opened := [*filter(opens, paths)]) or (access and op in ("create", "delete", "replace")):
        yield f"reachable: {title}, {changes(opened) or f'{op}d'}"
    if kind in ("Deployment", "Job") and (op == "replace" or "spec.template" in " ".join(paths)):
        yield f"restarts: {title}"
    if kind == "Release" and op == "update":
        yield f"restarts: pods of {title} that Helm changes"


def _value(inputs: Any, path: str) -> str:
    """Return the value at a path such as `spec.ports[0].name`, shortened to 60 characters."""
    for quoted, index, plain in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        try:
            inputs = inputs[int(index)] if index else inputs[quoted or plain]
        except (KeyError, IndexError, TypeError):
            return "none"
    return textwrap.shorten(str(inputs), 60, placeholder="…")


def _downloads(tree: Any) -> Iterator[str]:
    """Yield each image and model in a step's inputs and outputs."""
    if isinstance(tree, dict):
        yield from (f"image {image}" for image in [tree.get("image")] if isinstance(image, str))
        yield from (f"model {model}" for model in tree.get("models", []) if isinstance(model, str))
    for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []:
        yield from _downloads(item)
