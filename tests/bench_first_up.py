"""First `up`s one after the other, idle and under load, and one whose pods are slow to be ready."""

import copy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from sandbox.build import Tools
from sandbox.cluster import Cluster, Node
from sandbox.engine import Engine

TIMES = 20
HANG = 240
"""Seconds: the provider gives up on a claim after 300, and no `up` here takes a third of that."""
MINUTES = 11
"""Longer than the 10 minutes that the provider waits for a Deployment or a Service by itself."""
SPIN = "while True: pass"


def up(node: Node, tools: Tools, cluster: Cluster) -> float:
    """Seconds that the first `up` on a new cluster takes; raises CommandError if it fails."""
    try:
        cluster.start([node])
        engine = Engine(cluster, tools)
        began = time.perf_counter()
        engine.up(lambda _: None)
        return time.perf_counter() - began
    finally:
        cluster.remove()


@contextmanager
def load(programs: int) -> Iterator[None]:
    """Keep as many cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(programs)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def first_ups(node: Node, tools: Tools, folder: Path, programs: int) -> str:
    """Make `TIMES` new clusters, and say how many `up`s hung and how long the longest took."""
    with load(programs):
        taken = [up(node, tools, Cluster(folder / f"first-{n}", tools)) for n in range(TIMES)]
    hung = sum(seconds > HANG for seconds in taken)
    return f"{hung} hang, longest {max(taken):.0f} s"


def slow_pods(node: Node, tools: Tools, folder: Path) -> str:
    """Let the pods of the stack's namespaces be ready only after `MINUTES`, and time an `up`."""
    slow = folder / "slow"
    slow.mkdir()
    for name in ("bin", "crds"):
        (slow / name).symlink_to(tools.folder / name)
    shutil.copytree(tools.folder / "stages", slow / "stages")
    stage = slow / "stages/pod-fast/pod-ready.yaml"
    fast = yaml.safe_load(stage.read_text())
    delayed = copy.deepcopy(fast)
    delayed["metadata"]["name"] = "pod-ready-late"
    delayed["spec"]["delay"] = {"durationMilliseconds": MINUTES * 60_000}
    for sheet, operator in ((fast, "NotIn"), (delayed, "In")):
        namespaces = ["ollama-stack", "observability"]
        where = {"key": ".metadata.namespace", "operator": operator, "values": namespaces}
        sheet["spec"]["selector"]["matchExpressions"].append(where)
    stage.write_text(yaml.safe_dump_all([fast, delayed]))
    taken = up(node, tools, Cluster(folder / "late", replace(tools, folder=slow)))
    return f"{taken / 60:.1f} min, no error"
