"""`make demo`: the stack on a cluster with a real node, for a browser."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from string import Template
from typing import Any

from config.stack_file import project_keys, read_config
from sandbox import images, node, requirements
from sandbox.build import FOLDER, Tools, build
from sandbox.cache import cache
from sandbox.engine import PROJECT, Engine
from sandbox.processes import SandboxError, locked
from sandbox.programs import install_all
from sandbox.progress import progress, say
from sandbox.pull import published
from sandbox.real_cluster import PAGE, Cluster, step

STACK_FILE = PROJECT / "Pulumi.sandbox.yaml"
CONTAINERS = ("disk", "evo4t")
"""Folders that containers write to, with owners of their own."""
SESSION = "session"
"""Folder that is locked while a demo is built, runs or is deleted."""


def run(folder: Path) -> None:
    """Start the stack, print its addresses, and wait for an interrupt.

    Raises KeyboardInterrupt, also after SIGTERM and SIGHUP.
    """
    start = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    cluster, session = None, contextlib.ExitStack()
    try:
        requirements.install(FOLDER)
        requirements.check_kernel()
        session.enter_context(locked(folder / SESSION, wait=False))
        wanted = () if os.environ.get("PULL") == "0" else images.PUBLISHED
        tools, pulled = build(), published(wanted)
        programs = install_all(
            [images.PROGRAMS[name] for name in pulled if name in images.PROGRAMS]
        )
        if images.PAGES - pulled.keys():
            images.open_webui()
        cluster = Cluster(folder, programs, tools.addons(), pulled)
        cluster.start()
        engine = Engine(cluster, tools, config=settings(cluster))
        with step("pulumi up"), progress(cluster.context, cluster.kubeconfig):
            engine.up(say)
        with step("chat page"):
            cluster.wait_for_page()
        if tools.chart:
            service = "kube-prom-stack-prometheus"
            cluster.forward_service("prometheus", "observability", service, 9090)
        print(f"\n{report(cluster, engine, tools)}\ncreated in {time.monotonic() - start:.0f} s")
        print("next: open the chat page and sign in; Ctrl-C stops the demo", flush=True)
        give_back(folder)
        signal.pause()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if cluster:
            cluster.stop()
        give_back(folder)
        session.close()


def clean(folder: Path) -> None:
    """End all processes of `folder`, and delete it."""
    if os.geteuid() != 0:
        raise SandboxError("demo: its files are root's; run: sudo make demo-clean")
    with locked(folder / SESSION, wait=False), locked(folder):
        node.end(folder)
        shutil.rmtree(folder)
    print("demo: stopped and deleted")


def settings(cluster: Cluster) -> dict[str, Any]:
    """Return the stack file's configuration, with the forwarded port as an origin of the page."""
    keys = project_keys(read_config(STACK_FILE))
    keys["webui"]["origins"] = [f"http://127.0.0.1:{cluster.ports['page']}"]
    return keys


def give_back(folder: Path) -> None:
    """Make the user of sudo the owner of all files but those of containers."""
    if not (owner := os.environ.get("SUDO_UID")):
        return
    owners = f"{owner}:{os.environ['SUDO_GID']}"
    chown = ["chown", "--no-dereference", owners]
    for top in filter(Path.exists, (FOLDER, folder, cache())):
        containers = [folder / name for name in CONTAINERS]
        rest = [path for path in top.iterdir() if path not in (folder, *containers)]
        subprocess.run([*chown, top], check=True)
        subprocess.run([*chown, "--recursive", *rest], check=True)


def report(cluster: Cluster, engine: Engine, tools: Tools) -> str:
    """Return addresses, passwords and limits, for the person at the terminal."""
    outputs = {name: value for name, (value, _) in engine.outputs().items()}
    images = [
        f"  {image.name.partition('@')[0]:<70} {image.difference}"
        for image in cluster.images()
        if image.difference
    ]
    prometheus = f"http://127.0.0.1:{cluster.ports.get('prometheus')}"
    none = "none: the published chart is not here (docs/develop.md#the-demo)"
    text = Template(Path(__file__).with_name("demo.txt").read_text())
    return text.substitute(
        outputs,
        images="\n".join(images),
        page=f"http://127.0.0.1:{cluster.ports['page']}",
        prometheus=prometheus if tools.chart else none,
        client=" ".join(cluster.command("client", "curl", f"http://{PAGE}")),
        kubectl=f"KUBECONFIG={cluster.kubeconfig} {FOLDER / 'bin' / 'kube'} kubectl",
        folder=cluster.folder,
    )
