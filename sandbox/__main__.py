"""`python -m sandbox up|down|…`: the program on a cluster of its own."""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

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
from sandbox.report import report

NOTHING = "sandbox: the state is empty, nothing was brought up yet; run: make up"


def main() -> int:
    """Run one command; 0 is success, 1 an error told in one line, 130 an interruption."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER / "run", help="where its state lies")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="build the tools, start the cluster, run pulumi up")
    commands.add_parser("down", help="destroy the stack, end the processes, forget the state")
    commands.add_parser("status", help="what runs, and what is there")
    commands.add_parser("output", help="print one output of the stack, secret or not").add_argument(
        "name"
    )
    commands.add_parser("demo", help="run the stack on a real node until Ctrl-C; needs root")
    commands.add_parser("demo-clean", help="end what is left of the demo, and delete its data")
    commands.add_parser("build", help="build all that tests and demo need, and start nothing")
    options = parser.parse_args()
    actions = {
        "up": up,
        "down": down,
        "status": status,
        "output": output,
        "demo": run_demo,
        "demo-clean": clean_demo,
        "build": build_all,
    }
    try:
        with readable_errors(options.folder):
            return actions[options.command](options)
    except (SandboxError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
    except CommandError as error:
        print(f"error: pulumi {_why(error)}", file=sys.stderr)
    except HTTPError as error:
        print(f"error: the cluster stopped answering: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("error: interrupted; the same command takes up where it was", file=sys.stderr)
        return 130
    return 1


def build_all(_: argparse.Namespace) -> int:
    """Build what is missing."""
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
        images.prepare(FOLDER)
    return 0


def up(options: argparse.Namespace) -> int:
    """Bring everything up, and print what there is."""
    began = time.monotonic()
    # Before anything is built or started.
    settings = _settings()
    tools = build()
    cluster = Cluster(options.folder, tools)
    print("  cluster: starting", flush=True)
    starting = time.monotonic()
    cluster.start(_nodes(settings))
    print(f"  cluster: ready after {time.monotonic() - starting:.0f} s", flush=True)
    engine = Engine(cluster, tools)
    changes = engine.up(_say)
    print(f"\n{_report(cluster, engine)}\n")
    same = changes.pop("same", 0)
    told = ", ".join(f"{count} {name}" for name, count in changes.items()) or "no changes"
    print(f"{told}; {same} unchanged; {time.monotonic() - began:.0f} s")
    return 0


def down(options: argparse.Namespace) -> int:
    """Destroy the stack, end exactly the processes that were started, and forget the state."""
    cluster = Cluster(options.folder, build())
    if cluster.running():
        try:
            Engine(cluster, build()).destroy(_say)
        except (CommandError, SandboxError):
            print("  what pulumi could not destroy in order goes with the cluster", flush=True)
    cluster.remove()
    print("sandbox: stopped, and its state is gone")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print the processes and, if they run, what there is; 1 if there is nothing."""
    cluster = Cluster(options.folder, build())
    pids = ", ".join(f"{name} {pid or 'not running'}" for name, pid in cluster.status().items())
    print(f"  processes: {pids}; {cluster.memory() / 1024**2:.0f} MiB")
    if not cluster.running():
        print("sandbox: not running; start it with: make up")
        return 1
    engine = Engine(cluster, build())
    if not engine.outputs():
        print(NOTHING)
        return 1
    print(f"\n{_report(cluster, engine)}")
    return 0


def output(options: argparse.Namespace) -> int:
    """Print one output of the stack in clear."""
    cluster = Cluster(options.folder, build())
    if not cluster.running():
        raise SandboxError("the sandbox is not running; start it with: make up")
    outputs = Engine(cluster, build()).outputs()
    if not outputs:
        raise SandboxError(NOTHING)
    if options.name not in outputs:
        raise SandboxError(f"output {options.name!r} must be one of {', '.join(sorted(outputs))}")
    value = outputs[options.name][0]
    print(value if isinstance(value, str) else json.dumps(value))
    return 0


def run_demo(options: argparse.Namespace) -> int:
    """Run the stack on a cluster with a real node, and wait for Ctrl-C."""
    _settings()
    try:
        demo.run(options.folder.absolute(), _say)
    except KeyboardInterrupt:
        print("\ndemo: stopped; the same command starts it again, with its data", file=sys.stderr)
    return 0


def clean_demo(options: argparse.Namespace) -> int:
    """Delete the demo's state."""
    demo.clean(options.folder.absolute())
    print("demo: nothing is left of it")
    return 0


def _why(error: CommandError) -> str:
    """Say why the CLI ended, and what to do: by its exit code, its own last line, or as above."""
    if killed := re.search(r"code: -(\d+)", str(error)):
        return f"was killed by signal {killed[1]}; run the same command again"
    own = str(error).rpartition("stderr:")[2].strip().splitlines()
    why = f": {own[-1].removeprefix('error: ')}" if own else "; it says above why"
    return f"stopped{why}; mend that, and run the same command again"


def _nodes(settings: Settings) -> list[Node]:
    return [
        Node(name=name, cpus=node.cpus, memory=node.memory, address=node.address)
        for name, node in settings.nodes.items()
    ]


def _settings() -> Settings:
    settings = read(project_keys(read_config(demo.STACK_FILE)), Request(0, 0))
    if settings.context != Cluster.context:
        message = (
            f"homelab:context: got {settings.context!r}, want {Cluster.context} in the sandbox"
        )
        raise SettingsError(message)
    return settings


def _report(cluster: Cluster, engine: Engine) -> str:
    reading = "make output NAME="
    charts = engine.charts()
    return report(cluster.kubeconfig, cluster.context, engine.outputs(), charts, reading)


# What only says that something goes on, is looked at or is as it was.
IDLE = re.compile(
    r"@|.*ing \([0-4]s\)( |$)|.* refresh \([\d.]+m?s\)$|.*using pulumi-resource-"
    r"|.*the wrong version may be on your path"
    r"|[\s~+-]*pulumi:pulumi:Stack|\s+\S+:\S+:\S+ \S+\s*$|Diagnostics:"
    r"|If you want to remove|The resources in|\s*$"
)


def _say(line: str) -> None:
    """Print a line of the engine's that tells something."""
    if not IDLE.match(line):
        print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
