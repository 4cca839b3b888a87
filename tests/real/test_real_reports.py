"""What others have reported of the same programs (docs/reports.md), on the real node."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from threading import Event

import pytest
from doctor_lab import connect
from page import ask
from real_lab import Server
from waiting import eventually

from ops import doctor

pytestmark = pytest.mark.faults

MODEL = "gemma3:4b"
SILENCE = f'ollama_model_silence_seconds{{gen_ai_request_model="{MODEL}"}}'
WANTED = {"model": MODEL, "prompt": "x", "options": {"num_predict": 100_000}}


def test_a_model_whose_process_hangs_is_seen_and_another_pod_answers(metrics: Server) -> None:
    """ollama#17428: Ollama itself says that all is well."""
    metrics.chat(MODEL, "Be loaded.", metrics.token())
    pods = connect(metrics.cluster).resources.get(api_version="v1", kind="Pod")
    label = "app.kubernetes.io/name=ollama"
    (pod,) = pods.get(namespace="ollama-stack", label_selector=label).items

    over = Event()

    def asking() -> None:
        with suppress(OSError, HTTPException):
            while not over.is_set():
                ask("POST", f"{metrics.gateway}/api/generate", WANTED, timeout=600)

    def silent() -> bool:
        # Again and again, because Ollama replaces one that hangs between two answers.
        metrics.cluster.node.run("pkill", "-STOP", "-f", "ollama runner")
        return (metrics.value(SILENCE) or 0) > 30

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(asking)
        try:
            assert eventually(silent)
            assert metrics.value("ollama_up") == 1
        finally:
            over.set()
            now = {"gracePeriodSeconds": 5}
            pods.delete(name=pod.metadata.name, namespace="ollama-stack", body=now)

    assert eventually(metrics.answers)
    assert metrics.chat(MODEL, "Again.", metrics.token())["text"]
    assert eventually(lambda: metrics.value(SILENCE) == 0)


def test_the_page_opens_while_the_gateway_hangs(server: Server) -> None:
    """open-webui#11869."""
    token = server.token()
    server.cluster.node.run("pkill", "-STOP", "-f", "gateway.py")
    try:
        for path in ("/api/config", "/api/models", "/api/v1/chats/?page=1"):
            status, text = ask("GET", f"{server.page}{path}", token=token)
            assert status == 200, (path, text)
    finally:
        server.cluster.node.run("pkill", "-CONT", "-f", "gateway.py")
    assert eventually(lambda: server.models(token))


def test_a_service_that_is_made_anew_has_its_address_again(server: Server) -> None:
    """metallb#2723: and no other one loses its own."""

    def held() -> dict[str, str]:
        return {
            service["metadata"]["name"]: entry["ip"]
            for service in server.objects("v1", "Service")
            for entry in service["status"].get("loadBalancer", {}).get("ingress") or []
        }

    before = held()
    services = connect(server.cluster).resources.get(api_version="v1", kind="Service")
    services.delete(name="open-webui-service-local", namespace="ollama-stack")
    assert eventually(lambda: len(held()) == len(before) - 1)
    server.engine.up(lambda _: None)

    assert eventually(lambda: held() == before)
    server.cluster.wait_for_page()
    assert ask("GET", f"{server.page}/health")[0] == 200


def test_a_prometheus_that_no_release_owns_goes_on_and_the_doctor_says_so(metrics: Server) -> None:
    """helm-charts#5993: what a release under another name has left."""
    client = connect(metrics.cluster)
    prometheuses = client.resources.get(api_version="monitoring.coreos.com/v1", kind="Prometheus")
    (own,) = prometheuses.get(namespace="observability").items

    def running() -> bool:
        pods = client.resources.get(api_version="v1", kind="Pod")
        label = "operator.prometheus.io/name=old"
        return any(
            pod.status.phase == "Running"
            for pod in pods.get(namespace="default", label_selector=label).items
        )

    line = "prometheuses default/old remains from a removed release"
    assert line not in metrics.problems(doctor.addons)
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "old"},
        "spec": {"image": own.spec.image, "version": own.spec.version},
    }
    prometheuses.create(body=body, namespace="default")
    try:
        assert eventually(running)
        assert line in metrics.problems(doctor.addons)
    finally:
        prometheuses.delete(name="old", namespace="default")
    assert eventually(lambda: not running())
    assert line not in metrics.problems(doctor.addons)
