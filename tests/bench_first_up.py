"""Measures first `up`s, idle and under load, and one with slow pods."""

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
"""Seconds. The provider gives up on a claim after 300; an `up` takes less than 100."""
MINUTES = 11
"""More than the provider's default timeout for a Deployment or Service, 10 minutes."""
SPIN = "while True: pass"


def up(node: Node, tools: Tools, cluster: Cluster) -> float:
    """Return the seconds of the first `up` on a new cluster; raises CommandError."""
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
    """Run this many busy loops."""
    busy = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(programs)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def first_ups(node: Node, tools: Tools, folder: Path, programs: int) -> str:
    """Return how many of `TIMES` first `up`s hung, and how long the longest took."""
    with load(programs):
        times = [up(node, tools, Cluster(folder / f"first-{n}", tools)) for n in range(TIMES)]
    hung = sum(seconds > HANG for seconds in times)
    return f"{hung} hang, longest {max(times):.0f} s"


def slow_pods(node: Node, tools: Tools, folder: Path) -> str:
    """Return how long an `up` takes whose pods are ready after `MINUTES`."""
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
    for stage_manifest, operator in ((fast, "NotIn"), (delayed, "In")):
        namespaces = ["ollama-stack", "observability"]
        expression = {"key": ".metadata.namespace", "operator": operator, "values": namespaces}
        stage_manifest["spec"]["selector"]["matchExpressions"].append(expression)
    stage.write_text(yaml.safe_dump_all([fast, delayed]))
    duration = up(node, tools, Cluster(folder / "late", replace(tools, folder=slow)))
    return f"{duration / 60:.1f} min, no error"
