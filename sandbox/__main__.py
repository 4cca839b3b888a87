"""`python -m sandbox up|down|…`: the program on a cluster of its own."""

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping
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
from sandbox.programs import install_all, install_tools
from sandbox.progress import progress, say
from sandbox.real_cluster import step


def main() -> int:
    """Run one command; returns 0, 1 after an error of one line, or 130 after an interrupt."""
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER / "run", help="folder of its state")
    commands = parser.add_subparsers(required=True)
    for name, run, text in (
        ("up", up, "build the tools, start the cluster, run pulumi up"),
        ("down", down, "destroy the stack, end the processes, delete the state"),
        ("demo", run_demo, "run the stack on a real node until Ctrl-C; needs root"),
        ("demo-clean", demo.clean, "end what is left of the demo, and delete its data"),
        ("build", build_all, "build all that tests and demo need, and start nothing"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=run)
    options = parser.parse_args()
    try:
        with readable_errors(options.folder):
            options.run(options.folder.absolute())
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


def build_all(_: Path) -> None:
    """Build missing programs and images."""
    build()
    install_all()
    install_tools(["promtool"])
    if os.geteuid() == 0 and not requirements.missing():
        images.python()


def up(folder: Path) -> None:
    """Start the cluster, apply the stack, and print the closing lines."""
    start = time.monotonic()
    # Read first, because a build takes minutes.
    settings = _settings()
    tools = build()
    cluster = Cluster(folder, tools)
    nodes = [
        Node(name=name, cpus=node.cpus, memory=node.memory, address=node.address)
        for name, node in settings.nodes.items()
    ]
    with step("cluster"):
        cluster.start(nodes)
    engine = Engine(cluster, tools)
    with progress(cluster.context, cluster.kubeconfig):
        changes = engine.up(say)
    _summarize(engine, changes, time.monotonic() - start)


def down(folder: Path) -> None:
    """Destroy the stack, end the cluster's processes, and delete the state."""
    tools = build()
    cluster = Cluster(folder, tools)
    if cluster.running():
        try:
            Engine(cluster, tools).destroy(say)
        except (CommandError, SandboxError):
            print("  what pulumi could not delete is deleted with the cluster", flush=True)
    cluster.remove()
    print("sandbox: stopped and deleted")


def run_demo(folder: Path) -> None:
    """Run the stack on a cluster with a real node until Ctrl-C."""
    _settings()
    try:
        demo.run(folder)
    except KeyboardInterrupt:
        print("\ndemo: stopped; next: sudo make demo continues, with its data", file=sys.stderr)


def _summarize(engine: Engine, changes: Mapping[str, int], seconds: float) -> None:
    """Print the closing lines of an `up` that made these `changes`."""
    outputs = {name: value for name, (value, _) in engine.outputs().items()}
    counts = ", ".join(f"{operation} {count}" for operation, count in changes.items())
    print(f"\nchat page  {', '.join(outputs['open_webui_urls'])}")
    print(f"Grafana    {outputs['grafana_url']}")
    print("           nothing answers here: the pods are simulated")
    print(f"\n{counts}, in {seconds:.0f} s")
    print("next: make status, make diff or make down; to chat in your browser: sudo make demo")


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


if __name__ == "__main__":
    sys.exit(main())
