"""Two real nodes with a model server each; one of them is cut off, and comes back."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from doctor_lab import connect
from page import ask
from real_lab import Server
from waiting import eventually

from sandbox.addons import MANIFESTS
from sandbox.build import Tools
from sandbox.real_cluster import Cluster

pytestmark = pytest.mark.faults

FIRST, BOTH, SECOND = "codellama:7b", "gemma3:4b", "mistral:7b"
"""Models that the first server has, both, and the second."""
SPREAD = "192.168.1.103"
"""MetalLB announces it from the node `big` while both have a pod for it: by a hash of the two."""
PORT = 8000
WEB = {"name": "web", "image": "debian:bookworm", "command": ["python3", "-m", "http.server"]}


def pod(name: str, node: str) -> dict[str, Any]:
    """A web server on a node."""
    metadata = {"name": name, "labels": {"app": "spread"}}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [WEB]}}


POOL = {"metadata": {"name": "spread"}, "spec": {"addresses": [f"{SPREAD}/32"]}}
ADVERTISEMENT = {"metadata": {"name": "spread"}, "spec": {"ipAddressPools": ["spread"]}}
SERVICE = {
    "metadata": {"name": "spread", "annotations": {"metallb.io/loadBalancerIPs": SPREAD}},
    "spec": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "selector": {"app": "spread"},
        "ports": [{"port": PORT}],
    },
}


class Two(Server):
    """The stack on two nodes, the page on the first; and what a person does and sees."""

    def __init__(self, cluster: Cluster, tools: Tools) -> None:
        super().__init__(cluster, tools)
        nodes = self.config["nodes"]
        nodes["big"] = {**nodes["evo4t"], "address": "192.168.1.99"}
        for section in ("ollama", "webui", "observability"):
            self.config[section]["node"] = "evo4t"
        volume = {"path": "/mnt/evo4t/models", "size": "500Gi"}
        self.config["ollama"]["models"] = ["llama3.2:3b", FIRST, BOTH]
        self.config["servers"] = {
            "big": {"node": "big", "volume": volume, "models": [BOTH, SECOND]}
        }

    def cable(self, state: str) -> None:
        """Set the link of the second node `up` or `down`."""
        link = ["ip", "link", "set", "second", state]
        subprocess.run(self.cluster.command("lan", *link), check=True)

    def power(self, state: str) -> None:
        """End the second node at once, or start it."""
        if state == "up":
            self.cluster.start_node("second")
        else:
            os.kill(self.cluster.holders["second"], signal.SIGKILL)

    def reload(self) -> set[str]:
        """The models in the list, as a reload of the page shows them; none if it has none."""
        with suppress(OSError):
            return self.models(self.token())
        return set()

    def says(self, model: str) -> str:
        """`answer`, or the error in place of one, or `silence` after ten seconds."""
        body = {"model": model, "stream": False, "messages": [{"role": "user", "content": "hi"}]}
        path = f"{self.page}/api/chat/completions"
        with suppress(OSError):
            _, text = ask("POST", path, body, self.token(), timeout=10)
            answer = json.loads(text)
            return "answer" if "choices" in answer else str(answer["detail"])
        return "silence"

    def watch(self, until: Callable[[], bool]) -> list[str]:
        """Chat, and reload the page, until ten answers follow each other and `until` is true.

        Returns what was seen, a line each time that it changes.
        """
        began, in_a_row, seen, last = time.monotonic(), 0, [], ""
        while in_a_row < 10 or not until():
            asked = time.monotonic()
            listed = "listed" if SECOND in self.reload() else "not listed"
            said = f"{self.says(BOTH)}, {SECOND} {listed}"
            in_a_row = in_a_row + 1 if said.startswith("answer") else 0
            if said != last:
                took = time.monotonic() - asked
                seen.append(f"{asked - began:5.1f} s: {said}, after {took:.1f} s")
            last = said
            assert time.monotonic() - began < 300, seen
        return seen


@pytest.fixture(scope="module")
def two(
    real_programs: dict[str, Path], real_tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Two]:
    """The stack, up on two nodes."""
    folder = tmp_path_factory.mktemp("nodes")
    cluster = Cluster(folder, real_programs, real_tools.addons(), second="big")
    try:
        cluster.start()
        scale = ["-n", "kube-system", "scale", "deployment", "coredns", "--replicas=2"]
        subprocess.run([*cluster.kubectl, *scale], check=True, capture_output=True)
        two = Two(cluster, real_tools)
        two.begin()
        yield two
    finally:
        cluster.stop()


def test_each_node_answers_with_its_own_models(two: Two) -> None:
    assert eventually(lambda: two.reload() >= {FIRST, BOTH, SECOND})
    pods = two.objects("v1", "Pod")
    placed = {
        item["metadata"]["labels"]["app.kubernetes.io/name"]: item["spec"]["nodeName"]
        for item in pods
        if item["metadata"]["namespace"] == "ollama-stack"
    }
    assert (placed["ollama"], placed["ollama-big"]) == ("evo4t", "big")
    assert placed["open-webui"] == "evo4t"
    assert [two.says(model) for model in (FIRST, BOTH, SECOND)] == ["answer"] * 3


@pytest.mark.parametrize("fault", ["cable", "power"])
def test_models_of_a_node_that_is_cut_off_answer_from_the_other(
    two: Two, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = getattr(two, fault)
    assert eventually(lambda: SECOND in two.reload())
    cut("down")
    try:
        # Kubernetes has then taken its pods out of Services.
        seen = two.watch(lambda: SECOND not in two.reload())
        assert two.says(SECOND) == "Model not found"
        assert two.says(FIRST) == "answer"
    finally:
        cut("up")
    began = time.monotonic()
    assert eventually(lambda: SECOND in two.reload())
    assert eventually(lambda: two.says(SECOND) == "answer")
    back = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{fault}:", *seen, f"back after {back:.0f} s", sep="\n  ")


def test_an_address_moves_to_the_node_that_has_a_pod_for_it(
    two: Two, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = connect(two.cluster).resources
    pods = resources.get(api_version="v1", kind="Pod")
    # MetalLB's webhook may have been on the node that lost its power.
    ask = ["create", "--dry-run=server", f"--filename={MANIFESTS / 'webhook.yaml'}"]
    command = [*two.cluster.kubectl, *ask]
    assert eventually(lambda: subprocess.run(command, check=False).returncode == 0)
    # The program's own pool is for its own namespaces.
    for kind, body in {"IPAddressPool": POOL, "L2Advertisement": ADVERTISEMENT}.items():
        typed = {"apiVersion": "metallb.io/v1beta1", "kind": kind}
        resource = resources.get(api_version=typed["apiVersion"], kind=kind)
        resource.create(namespace="metallb-system", body={**typed, **body})
    for name, node in {"here": "evo4t", "there": "big"}.items():
        pods.create(namespace="default", body=pod(name, node))
    resources.get(api_version="v1", kind="Service").create(namespace="default", body=SERVICE)
    url = f"http://{SPREAD}:{PORT}/"
    curl = two.cluster.command("client", "curl", "-s", "-m", "2", "-o", "/dev/null", url)

    def reached() -> bool:
        return subprocess.run(curl, check=False).returncode == 0

    def announced_by() -> str:
        statuses = two.objects("metallb.io/v1beta1", "ServiceL2Status")
        # One that was just created has no status.
        known = [item["status"] for item in statuses if "status" in item]
        return "".join(it["node"] for it in known if it["serviceName"] == "spread")

    assert eventually(reached)
    assert eventually(lambda: announced_by() == "big")
    two.cable("down")
    began = time.monotonic()
    try:
        assert eventually(reached)
        moved = time.monotonic() - began
        # The page has its volume on the first node, and its address with it.
        assert eventually(lambda: FIRST in two.reload())
        assert two.says(FIRST) == "answer"
    finally:
        two.cable("up")
    assert eventually(lambda: announced_by() == "big")
    assert eventually(reached)
    with capsys.disabled():
        print(f"\naddress moved after {moved:.0f} s")


def test_an_address_whose_pod_cannot_move_waits_for_its_node(two: Two) -> None:
    volume = {"path": "/mnt/evo4t/open-webui", "size": "100Gi"}
    two.config["webui"] |= {"node": "big", "volume": volume}
    two.begin()
    assert eventually(lambda: two.says(BOTH) == "answer")
    two.cable("down")
    try:
        assert eventually(lambda: ready(two) == "Unknown")
        assert two.says(BOTH) == "silence"
    finally:
        two.cable("up")
    assert eventually(lambda: two.says(BOTH) == "answer")
    assert eventually(lambda: two.says(SECOND) == "answer")


def ready(two: Two) -> str:
    """Status of the condition `Ready` of the second node."""
    (node,) = [item for item in two.objects("v1", "Node") if item["metadata"]["name"] == "big"]
    (ready,) = [entry for entry in node["status"]["conditions"] if entry["type"] == "Ready"]
    return str(ready["status"])
