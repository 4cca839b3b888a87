"""Measures the stack on the real node, for tests/bench.py; takes five minutes, as root."""

import contextlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from real_lab import Server

from sandbox import images, requirements
from sandbox.build import build
from sandbox.processes import SandboxError
from sandbox.programs import install_all
from sandbox.real_cluster import PAGE, Cluster

MODEL = "llama3.2:3b"
SYSTEM = (
    *("etcd", "apiserver", "controllers", "scheduler"),
    *("containerd", "kubelet", "proxy", "network-policies"),
)
Row = tuple[str, str, str]
# Prints the median seconds to the first piece, and pieces per second of all, of 30 answers.
ASK = """
import statistics, sys, time, urllib.request
url, token, body = sys.argv[1:]
first, pieces, seconds = [], 0, 0
for _ in range(30):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + token}
    began, moments = time.perf_counter(), []
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers)) as answer:
        for line in answer:
            line = line.replace(b" ", b"")
            if b'"content":"' in line and b'"content":""' not in line:
                moments.append(time.perf_counter())
    if len(moments) > 1:
        first.append(moments[0] - began)
        pieces += len(moments)
        seconds += moments[-1] - began
print(statistics.median(first), pieces / seconds)
"""


def rows(folder: Path) -> Iterator[Row]:
    """Give what is measured, its value and what is to be reached, each when it is known."""
    try:
        if packages := requirements.missing():
            raise SandboxError(f"packages are missing: {' '.join(packages)}")
        requirements.check_kernel()
    except SandboxError as error:
        yield "the real node", str(error).partition(":")[0], ""
        return
    tools, programs = build(), install_all()
    images.open_webui()
    cluster = Cluster(folder, programs, tools.addons())
    try:
        began = time.monotonic()
        quietly(cluster)
        server = Server(cluster, tools)
        server.begin()
        yield "real node, from nothing to the page", f"{time.monotonic() - began:.0f} s", ""
        cluster.stop()
        began = time.monotonic()
        took = quietly(cluster)
        ready = took["control plane"] + took["images"] + took["node"]
        yield "node ready after its namespaces", f"{ready:.1f} s", "8 s"
        cluster.wait_for_page()
        yield "page answers after the start", f"{time.monotonic() - began:.0f} s", "90 s"
        yield "memory of the system's processes", f"{memory(cluster) / 1e6:.0f} MB", "700 MB"
        server.cut()
        began = time.monotonic()
        quietly(cluster)
        cluster.wait_for_page()
        yield "page answers after a power cut", f"{time.monotonic() - began:.0f} s", "45 s"
        server.connect()
        message = {"role": "user", "content": "Say something."}
        body = json.dumps({"model": MODEL, "messages": [message], "stream": True})
        ask = ["-c", ASK]
        pod = [*cluster.kubectl, "-n", "ollama-stack", "exec", "deployment/ollama", "-c", "gateway"]
        inside = [*pod, "--", "python3", *ask, "http://127.0.0.1:11435/api/chat", "-", body]
        url, token = f"http://{PAGE}/api/chat/completions", server.token()
        outside = cluster.command("client", sys.executable, *ask, url, token, body)
        # What is loaded for the first one is there for the other.
        server.chat(MODEL, "Be loaded.", token)
        for where, command in (("Ollama in its pod", inside), ("the page on the LAN", outside)):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            first, speed = map(float, done.stdout.split())
            yield f"first token, tokens/s: {where}", f"{first * 1000:.0f} ms, {speed:.0f}/s", ""
    finally:
        cluster.stop()


def quietly(cluster: Cluster) -> dict[str, float]:
    """Start it without a word, and give the seconds of each step."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        cluster.start()
    steps = re.findall(r"^  ([^:\n]+): ([\d.]+) s$", said.getvalue(), re.MULTILINE)
    return {step: float(seconds) for step, seconds in steps}


def memory(cluster: Cluster) -> int:
    """Add up the memory of what runs on the node besides pods, in bytes, what is shared once."""
    alive, total = cluster.node.processes.alive(), 0
    for name in SYSTEM:
        for process in (alive[name], *alive[name].children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total
