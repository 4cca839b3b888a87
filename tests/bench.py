"""`make bench`: prints a table of measurements, and asserts nothing.

BENCH_TOOLS=1 also measures a build of the tools without a cache, 10 minutes or more.
"""

import asyncio
import contextlib
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_first_up
import bench_real
import psutil
from harness import RESERVED, ROOT, deploy, deploy_program, read, stack_config

import config
from ops import cluster as ops_cluster
from ops import doctor, drift, stacks
from ops.diff import compare
from ops.stacks import Stack
from sandbox.build import build
from sandbox.cluster import Cluster, Node
from sandbox.engine import Engine

NODE = Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")
SMALL, LARGE = 3, 30
GATEWAY = ROOT / "tests/workloads/bench_gateway.py"
PROGRAMS = "components/ollama/programs"


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of `work` in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(name: str, measured: str, target: str = "") -> None:
    """Print a row of the table."""
    print(f"| {name:<46} | {measured:>24} | {target:>10} |", flush=True)


def mocked() -> None:
    """Measure the program under mocks, and how it scales."""
    deploy_program("home")  # imports the SDK
    row("whole program under mocks", f"{seconds(lambda: deploy_program('home')):.2f} s", "1 s")
    settings = read(stack_config("home"))
    row(
        "capacity plan",
        f"{seconds(lambda: config.plan(settings, RESERVED)) * 1000:.2f} ms",
        "10 ms",
    )
    crowded = stack_config("home")
    crowded["ollama"] |= {"models": ["gpt-oss:120b", "llama3.3:70b"], "loaded_models": 9}
    refusal = seconds(lambda: _refused(crowded)) * 1000
    row("refusal of what does not fit, all checks", f"{refusal:.1f} ms")

    def scaled(count: int) -> float:
        os.environ["BENCH_COUNT"] = str(count)

        def program() -> None:
            runpy.run_path(str(ROOT / "tests/bench_program.py"))

        return seconds(lambda: deploy(program))

    small, large = scaled(SMALL), scaled(LARGE)
    row(
        f"mocks, {SMALL} and {LARGE} models and volumes",
        f"{small:.2f} s, {large:.2f} s",
        f"x{large / small:.1f} of x10",
    )


def _refused(raw: dict[str, Any]) -> None:
    with suppress(config.SettingsError):
        read(raw)
        raise AssertionError("the settings were accepted")


def unit_tests() -> None:
    """Measure what a developer waits for."""
    for name, arguments, target in (
        ("collecting all tests", ["--collect-only"], "3 s"),
        ("tests of one component", ["tests/components/test_open_webui.py"], "2 s"),
        ("all tests that need nothing built", ["-n", "2", "--built", "no"], "180 s"),
    ):
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        began = time.perf_counter()
        passed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
        took = time.perf_counter() - began
        row(name, f"{took:.1f} s{'' if passed else ', but failed'}", target)


def gateway() -> None:
    """Print the table of the gateway's benchmark."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / PROGRAMS)}
    print(flush=True)
    subprocess.run([sys.executable, GATEWAY], env=environment, check=True)


def tools_from_nothing(folder: Path) -> None:
    """Measure a build of the tools without Go's caches."""
    if os.environ.get("BENCH_TOOLS") != "1":
        row("tools from nothing", "BENCH_TOOLS=1 measures it", "15 min")
        return
    os.environ |= {"GOCACHE": str(folder / "cache"), "GOMODCACHE": str(folder / "modules")}
    took = seconds(lambda: build(folder / "tools"))
    row("tools from nothing", f"{took / 60:.1f} min", "15 min")
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)


def difference(folder: Path) -> None:
    """Measure `make diff` of the last commit, the first time and with an applied BASE."""
    for run in ("first", "again"):
        took = seconds(lambda: compare(ROOT, folder / "diff", build(), "home", "HEAD"))
        row(f"diff, {run}", f"{took:.1f} s")


def on_a_cluster(folder: Path) -> None:
    """Measure the sandbox: start, runs of the engine, memory, and how they scale."""
    tools = replace(build(), chart=None)
    cluster = Cluster(folder / "live_stack", tools)
    began = time.time()
    took = seconds(lambda: cluster.start([NODE]))
    # The kubeconfig is written when the API server is ready.
    row("start to API ready", f"{cluster.kubeconfig.stat().st_mtime - began:.1f} s", "10 s")
    row("start to everything ready", f"{took:.1f} s")
    try:
        engine = Engine(cluster, tools)
        row("first up", f"{seconds(lambda: engine.up(lambda _: None)):.1f} s", "45 s")
        row("up without changes", f"{seconds(lambda: engine.up(lambda _: None)):.1f} s", "15 s")
        row("preview", f"{seconds(engine.preview):.1f} s", "15 s")
        stack = Stack(name="sandbox", cli=engine.cli, kubeconfig=cluster.kubeconfig)
        took = seconds(lambda: drift.check(stack, stacks.deployment(stack)))
        row("drift check", f"{took:.1f} s", "20 s")
        row("doctor", f"{seconds(lambda: _doctor(stack)):.1f} s", "15 s")
        row("memory of all processes", f"{_memory(cluster) / 1024**2:.0f} MiB", "1229 MiB")
        row("destroy", f"{seconds(lambda: engine.destroy(lambda _: None)):.1f} s", "30 s")
        small, large = (_scaled(cluster, folder, count) for count in (SMALL, LARGE))
        row(
            f"up, {SMALL} and {LARGE} models and volumes",
            f"{small:.1f} s, {large:.1f} s",
            f"x{large / small:.1f} of x10",
        )
    finally:
        cluster.remove()


def first_ups(folder: Path) -> None:
    """Count first `up`s that hang, on claims bound too early or on slow pods."""
    tools, times = replace(build(), chart=None), bench_first_up.TIMES
    cores = os.cpu_count() or 1
    for programs, condition in ((0, "idle"), (2 * cores, f"beside {2 * cores} busy programs")):
        result = bench_first_up.first_ups(NODE, tools, folder / f"beside-{programs}", programs)
        row(f"{times} first ups, {condition}", result, "0 hang")
    late = bench_first_up.slow_pods(NODE, tools, folder)
    row(f"first up, pods ready after {bench_first_up.MINUTES} min each", late, "no error")


def _doctor(stack: Stack) -> None:
    settings = read(stack_config(stack.name))
    server = ops_cluster.Cluster(settings.context, stack.kubeconfig)
    with contextlib.redirect_stdout(io.StringIO()):
        asyncio.run(doctor.report(settings, stack, server))


def _memory(cluster: Cluster) -> int:
    """Return the resident memory of all processes, in bytes."""
    processes = [psutil.Process(pid) for pid in cluster.status().values() if pid]
    total: int = sum(process.memory_info().rss for process in processes)
    return total


def _scaled(cluster: Cluster, folder: Path, count: int) -> float:
    """Return the seconds of an `up` of bench_program.py."""
    os.environ["BENCH_COUNT"] = str(count)
    project = folder / f"project-{count}"
    project.mkdir()
    for name in ("Pulumi.yaml", "Pulumi.sandbox.yaml"):
        shutil.copyfile(ROOT / name, project / name)
    shutil.copyfile(ROOT / "tests/bench_program.py", project / "__main__.py")
    engine = Engine(cluster, replace(build(), chart=None), project)
    took = seconds(lambda: engine.up(lambda _: None))
    engine.destroy(lambda _: None)
    return took


def main() -> None:
    """Print the whole table."""
    row("what", f"measured, {os.cpu_count()} cores", "to reach")
    row("-" * 46, "-" * 24, "-" * 10)
    mocked()
    unit_tests()
    with tempfile.TemporaryDirectory() as folder:
        tools_from_nothing(Path(folder))
        on_a_cluster(Path(folder))
        first_ups(Path(folder))
        difference(Path(folder))
        for measured in bench_real.rows(Path(folder) / "real"):
            row(*measured)
    gateway()


if __name__ == "__main__":
    main()
