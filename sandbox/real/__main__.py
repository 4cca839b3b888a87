"""`python -m sandbox.real up|down`: the program on a cluster with a real node."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pulumi.automation import CommandError

from sandbox.__main__ import IDLE
from sandbox.build import FOLDER, build
from sandbox.engine import Engine
from sandbox.processes import SandboxError, end_marked, readable_errors
from sandbox.real import images, programs, requirements
from sandbox.real.cgroup import Group
from sandbox.real.cluster import Cluster, step
from sandbox.real.oci import Image

FOLDER_NAME = "real"
DISK = ("models", "open-webui", "prometheus")
"""The directories that docs/house.md has people make."""


def main() -> int:
    """Run one command; 0 is success, 1 an error told in one line."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.real", description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER / FOLDER_NAME, help="where its state lies"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster, run pulumi up, and wait for Ctrl-C")
    commands.add_parser("down", help="end what still runs, and forget the state")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with readable_errors(options.folder):
            return {"up": up, "down": down}[options.command](options.folder.absolute())
    except SandboxError as error:
        print(f"error: {error}", file=sys.stderr)
    except CommandError as error:
        print(f"error: pulumi stopped; it says above why ({error.args[0][:80]!r})", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped; the same command starts it again, with its data", file=sys.stderr)
        return 130
    return 1


def up(folder: Path) -> int:
    """Start everything, print where it is, and wait; raises KeyboardInterrupt when told to end."""
    began = time.monotonic()
    requirements.install(FOLDER)
    requirements.check_kernel()
    tools = build()
    built = programs.collect()
    images.prepare(FOLDER)
    cluster = Cluster(folder, built, programs.addons())
    engine = Engine(cluster, tools)
    try:
        cluster.start(lambda file: every_image(built, file), DISK)
        give_back(FOLDER)
        with step("pulumi up"):
            engine.up(say)
        with step("chat page"):
            cluster.wait_for_page()
        cluster.open_prometheus()
        give_back(folder)
        took = time.monotonic() - began
        print(
            f"\n{report(cluster, engine, built)}\n\n  up in {took:.0f} s; Ctrl-C stops it",
            flush=True,
        )
        signal.pause()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_marked(folder)
        cluster.stop()
    return 0


def down(folder: Path) -> int:
    """End what still runs in `folder`, and delete it."""
    if folder.exists():
        end_marked(folder)
        Group(folder).end()
        shutil.rmtree(folder)
    print("nothing is left of it")
    return 0


def every_image(built: Mapping[str, Path], authority: Path) -> list[Image]:
    """Give all images; `authority` is who vouches for the model registry."""
    return [
        *images.system(FOLDER, built),
        *images.stack(FOLDER, built, authority),
        *images.monitoring(FOLDER, built),
    ]


def say(line: str) -> None:
    """Print a line of the engine's that tells something."""
    if not IDLE.match(line):
        print(f"    {line.rstrip()}", flush=True)


def give_back(folder: Path) -> None:
    """Let what is in a folder, but for what containers wrote, belong to who called sudo."""
    if owner := os.environ.get("SUDO_UID"):
        owners = f"{owner}:{os.environ['SUDO_GID']}"
        kept = ("disk", "evo4t", FOLDER_NAME)
        entries = [path for path in folder.iterdir() if path.name not in kept]
        plain = ["chown", "--no-dereference"]
        subprocess.run([*plain, owners, folder], check=True)
        subprocess.run([*plain, "--recursive", owners, *entries], check=True)


def report(cluster: Cluster, engine: Engine, built: Mapping[str, Path]) -> str:
    """What a person needs to know to use it."""
    outputs = {name: value for name, (value, _) in engine.outputs().items()}
    client = " ".join(cluster.command("client", "curl", outputs["open_webui_urls"][0]))
    lines = [
        f"chat page   http://127.0.0.1:{cluster.ports['page']}",
        f"sign in     {outputs['open_webui_email']}  {outputs['open_webui_password']}",
        f"at home     {client}",
        f"Prometheus  http://127.0.0.1:{cluster.ports['prometheus']}",
        f"kubectl     KUBECONFIG={cluster.kubeconfig} kubectl get pods -A",
        "",
        "Every model is one of 0.4 MB with random weights: answers are noise.",
        "Not the published images:",
        *(
            f"  {image.name.partition('@')[0]:<70} {image.difference}"
            for image in every_image(built, cluster.authority)
            if image.difference
        ),
    ]
    return "\n".join(f"  {line}".rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
