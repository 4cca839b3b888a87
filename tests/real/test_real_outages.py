"""What happens, and what metrics and alerts show of it, when pods crash or are deleted."""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from doctor_lab import connect
from page import ask
from real_lab import Server
from waiting import eventually

from sandbox.processes import SandboxError

pytestmark = pytest.mark.faults

# Ollama takes llama3.2:3b and :1b, which have one content here, for one model.
MODEL = "gemma3:4b"
LOADED = f'ollama_model_loaded_size_bytes{{gen_ai_request_model="{MODEL}"}}'


def pods(server: Server) -> dict[str, bool]:
    """The pods of Ollama's Deployment by name, and whether each is ready after a restart."""
    resource = connect(server.cluster).resources.get(api_version="v1", kind="Pod")
    items = resource.get(namespace="ollama-stack").to_dict()["items"]
    recovered = {}
    for item in items:
        name, status = item["metadata"]["name"], item["status"]
        if name.startswith("ollama-") and "-models-" not in name:
            containers = [*status["containerStatuses"], *status["initContainerStatuses"]]
            again = sum(container["restartCount"] for container in containers) > 0
            recovered[name] = again and all(container["ready"] for container in containers)
    return recovered


def test_ollama_killed_comes_back_and_its_gauges_end_at_once(metrics: Server) -> None:
    token = metrics.token()
    metrics.chat(MODEL, "Be loaded.", token)
    assert eventually(lambda: metrics.series(LOADED))
    (name,) = pods(metrics)

    metrics.cluster.node.run("pkill", "-KILL", "-x", "ollama")

    # Marked as ended: what is only no longer pushed stays in sight for five minutes.
    assert eventually(lambda: not metrics.series(LOADED))
    assert metrics.series(f"{LOADED}[2m]")
    assert eventually(lambda: metrics.value("ollama_up") == 1)
    assert metrics.chat(MODEL, "Again.", token)["text"]
    # Until then its Service leads nowhere.
    assert eventually(lambda: pods(metrics) == {name: True})


HOG = """
for file in memory.limit_in_bytes memory.max; do
  test ! -e "$1/$file" || echo $((256 << 20)) >"$1/$file"
done
echo $$ >"$1/cgroup.procs"
exec python3 -c 'bytearray(1 << 30)'
"""
"""Fills the memory of the control group $1."""


def test_ollama_killed_for_memory_is_an_alert_and_comes_back(metrics: Server) -> None:
    token, node = metrics.token(), metrics.cluster.node
    assert eventually(metrics.answers)
    pid = node.run("pgrep", "-x", "-f", "/usr/bin/ollama serve").strip()
    groups = [line.split(":") for line in node.run("cat", f"/proc/{pid}/cgroup").splitlines()]
    (path,) = [path for _, names, path in groups if names in ("memory", "")][:1]
    root = "/sys/fs/cgroup" if len(groups) == 1 else "/sys/fs/cgroup/memory"
    # The kernel kills what takes most; here that is never Ollama.
    node.run("choom", "-p", pid, "-n", "1000")
    with suppress(SandboxError):
        node.run("sh", "-c", HOG, "hog", f"{root}{path}")

    assert eventually(lambda: metrics.alerts().get("OutOfMemoryKill") == "firing")
    assert eventually(metrics.answers)
    assert metrics.chat(MODEL, "Again.", token)["text"]


def test_running_answers_are_finished_when_the_pod_is_deleted(server: Server) -> None:
    assert eventually(server.answers)
    (name,) = pods(server)
    run, runner = server.cluster.node.run, ("-f", "ollama runner")
    logs = ["-n", "ollama-stack", "logs", name, "--container=gateway"]

    def generate(seed: int) -> bool:
        options = {"num_predict": 500, "temperature": 1, "seed": seed}
        wanted = {"model": MODEL, "prompt": "x", "options": options}
        _, text = ask("POST", f"{server.gateway}/api/generate", wanted, timeout=300)
        return bool(json.loads(text.splitlines()[-1]).get("done"))

    def stopping() -> bool:
        read = subprocess.run([*server.cluster.kubectl, *logs], capture_output=True, check=True)
        return b"stopping" in read.stdout

    # One at a time is answered, and the others wait.
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(generate, seed) for seed in range(60)]
        assert eventually(lambda: any(answer.done() for answer in asked))
        # All 60 take two seconds, and the gateway goes on for five after the deletion.
        run("pkill", "-STOP", *runner)
        try:
            resource = connect(server.cluster).resources.get(api_version="v1", kind="Pod")
            resource.delete(name=name, namespace="ollama-stack")
            assert eventually(stopping)
            time.sleep(5)
            assert not all(answer.done() for answer in asked)
        finally:
            run("pkill", "-CONT", *runner)
        assert all(answer.result() for answer in asked)

    assert eventually(lambda: pods(server) and name not in pods(server))
    assert eventually(server.answers)


def test_ollama_that_cannot_start_is_an_alert_that_fires(metrics: Server) -> None:
    folder, node = "/mnt/evo4t/models", metrics.cluster.node
    mode = node.run("stat", "-c", "%a", folder).strip()
    metrics.hurry_alerts()

    node.run("chmod", "000", folder)
    try:
        node.run("pkill", "-KILL", "-x", "ollama")
        assert eventually(lambda: metrics.alerts().get("OllamaDown") == "firing")
    finally:
        node.run("chmod", mode, folder)

    # The more often it has failed, the longer the kubelet waits, five minutes at most.
    assert eventually(metrics.answers, 400)
    assert eventually(lambda: "OllamaDown" not in metrics.alerts())


def test_a_drained_node_takes_everything_back(server: Server) -> None:
    chat, cluster = server.keep_chat(), server.cluster

    def kubectl(*words: str) -> None:
        command = [*cluster.kubectl, *words, cluster.node.name]
        subprocess.run(command, check=True, capture_output=True)

    kubectl("drain", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5m")
    try:
        left = server.objects("v1", "Pod")
        assert not [
            pod["metadata"]["name"]
            for pod in left
            if pod["metadata"]["namespace"] == "ollama-stack" and pod["spec"].get("nodeName")
        ]
    finally:
        kubectl("uncordon")

    assert eventually(lambda: server.title_again(chat)) == "kept"
    assert eventually(server.answers)
    assert server.chat(MODEL, "Still there?", server.token())["text"]
