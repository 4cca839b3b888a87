"""`python -m sandbox up|down|…`: the program on a cluster of its own."""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pulumi.automation import CommandError
from urllib3.exceptions import HTTPError

from config import Request, Settings, SettingsError, read
from config.stack_file import project_keys, read_config
from sandbox import demo, images, requirements
from sandbox.build import FOLDER, build
from sandbox.cluster import Cluster, Node
from sandbox.engine import Engine
from sandbox.processes import SandboxError, readable_errors
from sandbox.programs import find_python, install_all, install_tools, open_webui
from sandbox.progress import Progress
from sandbox.report import report, summary


def main() -> int:
    """Run one command; returns 0, 1 after an error of one line, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER / "run", help="folder of its state")
    commands = parser.add_subparsers(required=True)
    for name, run, text in (
        ("up", up, "build the tools, start the cluster, run pulumi up"),
        ("down", down, "destroy the stack, end the processes, delete the state"),
        ("status", status, "print processes, outputs, volumes, addresses and pods"),
        ("output", output, "print one output of the stack, secret or not"),
        ("demo", run_demo, "run the stack on a real node until Ctrl-C; needs root"),
        ("demo-clean", clean_demo, "end what is left of the demo, and delete its data"),
        ("build", build_all, "build all that tests and demo need, and start nothing"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        if run is output:
            command.add_argument("name")
    options = parser.parse_args()
    try:
        with readable_errors(options.folder):
            options.run(options)
            return 0
    except (SandboxError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
    except CommandError as error:
        print(f"error: pulumi {_reason(error)}", file=sys.stderr)
    except HTTPError as error:
        print(f"error: the cluster stopped answering: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 1


def build_all(_: argparse.Namespace) -> None:
    """Build missing programs and images."""
    build()
    install_all()
    install_tools(["promtool"])
    try:
        find_python()
    except SandboxError as error:
        print(f"  Open WebUI as a process: left out; {error}")
    else:
        open_webui()
    if os.geteuid() == 0 and not requirements.missing():
        images.open_webui()


def up(options: argparse.Namespace) -> None:
    """Start the cluster, apply the stack, and print the closing lines."""
    start = time.monotonic()
    # Read first, because a build takes minutes.
    settings = _settings()
    tools = build()
    cluster = Cluster(options.folder, tools)
    print("  cluster: starting", flush=True)
    cluster_start = time.monotonic()
    cluster.start(
        [
            Node(name=name, cpus=node.cpus, memory=node.memory, address=node.address)
            for name, node in settings.nodes.items()
        ]
    )
    print(f"  cluster: ready after {time.monotonic() - cluster_start:.0f} s", flush=True)
    engine = Engine(cluster, tools)
    with Progress(cluster.context, cluster.kubeconfig) as progress:
        changes = engine.up(partial(_say, show=progress.say))
    print(f"\n{summary(engine.outputs(), changes, time.monotonic() - start)}")


def down(options: argparse.Namespace) -> None:
    """Destroy the stack, end the cluster's processes, and delete the state."""
    tools = build()
    cluster = Cluster(options.folder, tools)
    if cluster.running():
        try:
            Engine(cluster, tools).destroy(_say)
        except (CommandError, SandboxError):
            print("  what pulumi could not delete is deleted with the cluster", flush=True)
    cluster.remove()
    print("sandbox: stopped and deleted")


def status(options: argparse.Namespace) -> None:
    """Print the processes and a table of the stack; raises SandboxError if there is none."""
    cluster = Cluster(options.folder, build())
    pids = ", ".join(f"{name} {pid or 'not running'}" for name, pid in cluster.status().items())
    print(f"  processes: {pids}; {cluster.memory() / 1024**2:.0f} MiB")
    engine, _ = _engine(cluster)
    print(f"\n{_report(cluster, engine)}")


def output(options: argparse.Namespace) -> None:
    """Print one output of the stack in clear."""
    _, outputs = _engine(Cluster(options.folder, build()))
    if options.name not in outputs:
        raise SandboxError(f"output: got {options.name}, want one of {', '.join(sorted(outputs))}")
    value = outputs[options.name][0]
    print(value if isinstance(value, str) else json.dumps(value))


def run_demo(options: argparse.Namespace) -> None:
    """Run the stack on a cluster with a real node until Ctrl-C."""
    _settings()
    try:
        demo.run(options.folder.absolute(), _say)
    except KeyboardInterrupt:
        print("\ndemo: stopped; next: sudo make demo continues, with its data", file=sys.stderr)


def clean_demo(options: argparse.Namespace) -> None:
    """Delete the demo's state."""
    demo.clean(options.folder.absolute())
    print("demo: stopped and deleted")


def _engine(cluster: Cluster) -> tuple[Engine, dict[str, tuple[Any, bool]]]:
    """Return the engine and outputs of a stack that is up; raises SandboxError."""
    if not cluster.running():
        raise SandboxError("the sandbox is not running; start it with: make up")
    engine = Engine(cluster, build())
    if not (outputs := engine.outputs()):
        raise SandboxError("the state is empty: the stack has not been deployed yet; run: make up")
    return engine, outputs


def _reason(error: CommandError) -> str:
    """Return why the CLI ended, by its exit code or its own last line, and what to do."""
    if killed := re.search(r"code: -(\d+)", str(error)):
        return f"was killed by signal {killed[1]}; run the same command again"
    lines = str(error).rpartition("stderr:")[2].strip().splitlines()
    reason = f": {lines[-1].removeprefix('error: ')}" if lines else "; the reason is above"
    return f"stopped{reason}; fix that, and run the same command again"


def _settings() -> Settings:
    settings = read(project_keys(read_config(demo.STACK_FILE)), Request(0, 0))
    if (context := settings.context) != Cluster.context:
        message = f"homelab:context: got {context!r}, want {Cluster.context} in the sandbox"
        raise SettingsError(message)
    return settings


def _report(cluster: Cluster, engine: Engine) -> str:
    outputs, charts = engine.outputs(), engine.charts()
    return report(cluster.kubeconfig, cluster.context, outputs, charts, "make output NAME=")


# Lines of the engine about work that goes on, a refresh or an unchanged resource.
IDLE = re.compile(
    r"@|.*ing \([0-4]s\)( |$)|.* refresh \([\d.]+m?s\)$|.*using pulumi-resource-"
    r"|.*the wrong version may be on your path"
    r"|[\s~+-]*pulumi:pulumi:Stack|\s+\S+:\S+:\S+ \S+\s*$|Diagnostics:"
    r"|If you want to remove|The resources in|\s*$"
)


def _print(line: str) -> None:
    print(f"  {line}", flush=True)


def _say(line: str, show: Callable[[str], None] = _print) -> None:
    """Show a line of the engine, unless it is IDLE."""
    if not IDLE.match(line):
        show(line)


if __name__ == "__main__":
    sys.exit(main())
