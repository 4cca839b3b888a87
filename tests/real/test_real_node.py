"""The real node, from outside and from the home network."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from doctor_lab import connect
from kubernetes import config
from kubernetes.client import CoreV1Api
from kubernetes.stream import stream
from real_lab import Server
from waiting import eventually

from sandbox import network
from sandbox.real_cluster import Cluster

SLEEPER = {"name": "shell", "image": "debian:bookworm", "command": ["busybox", "sleep", "1d"]}
STRANGER = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "stranger", "namespace": "default"},
    "spec": {"terminationGracePeriodSeconds": 0, "containers": [SLEEPER]},
}


def reads(cluster: Cluster, where: str, url: str) -> str:
    """Give the status of an answer as curl says it at one place of the network; 000 is none."""
    asking = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]
    command = cluster.command(where, *asking)
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def runs(cluster: Cluster, *command: str) -> bool:
    """Say whether a command ends well in the stranger's container."""
    api = config.new_client_from_config(str(cluster.kubeconfig))  # type: ignore[no-untyped-call]
    asked = stream(
        CoreV1Api(api).connect_get_namespaced_pod_exec,
        "stranger",
        "default",
        command=list(command),
        stdout=True,
        stderr=True,
        _preload_content=False,
    )
    asked.run_forever(timeout=60)
    return bool(asked.returncode == 0)


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[Cluster]:
    """The cluster, with a pod that has nothing to do with the stack."""
    cluster = server.cluster
    pods = connect(cluster).resources.get(api_version="v1", kind="Pod")
    pods.create(body=STRANGER, namespace="default")

    def running() -> bool:
        status: Any = pods.get(name="stranger", namespace="default").status
        return bool(status.phase == "Running")

    assert eventually(running)
    yield cluster
    pods.delete(name="stranger", namespace="default")


def test_page_answers_at_its_address(server: Server) -> None:
    assert reads(server.cluster, "client", "http://192.168.1.101:8080/health") == "200"


def test_host_port_answers_on_the_tailnet_only(server: Server) -> None:
    assert reads(server.cluster, "tailnet", "http://100.102.114.95:8080/health") == "200"
    assert reads(server.cluster, "client", "http://192.168.1.100:8080/health") == "000"


@pytest.mark.parametrize(
    ("name", "port", "open_"),
    [("open-webui", 8080, True), ("ollama", 11434, False), ("prometheus", 9090, False)],
)
def test_who_routes_to_the_pods_from_the_home_network_reaches_the_page_alone(
    server: Server, name: str, port: int, open_: bool
) -> None:
    pods = connect(server.cluster).resources.get(api_version="v1", kind="Pod")
    label = f"app.kubernetes.io/name={name}"
    (pod,) = pods.get(label_selector=label, field_selector="status.phase=Running").items
    route = ["ip", "route", "replace", f"{pod.status.podIP}/32", "via", network.NODE]
    subprocess.run(server.cluster.command("client", *route), check=True)

    status = reads(server.cluster, "client", f"http://{pod.status.podIP}:{port}/")

    assert (status != "000") == open_


@pytest.mark.parametrize(
    ("address", "open_"),
    [
        ("'kube-dns.kube-system', 53", True),
        ("'ollama-service.ollama-stack', 11434", False),
        ("'open-webui-service-local.ollama-stack', 8080", False),
        ("'kube-prom-stack-prometheus.observability', 9090", False),
    ],
)
def test_stranger_reaches_dns_and_nothing_of_the_stack(
    stranger: Cluster, address: str, open_: bool
) -> None:
    connect = f"import socket; socket.create_connection(({address}), timeout=5)"
    assert runs(stranger, "python3", "-c", connect) == open_
