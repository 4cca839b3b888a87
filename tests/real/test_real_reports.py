"""What others have reported of the same programs (docs/reports.md), on the real node."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from page import ask
from real_lab import Server
from waiting import eventually

pytestmark = pytest.mark.faults

MODEL = "gemma3:4b"
SILENCE = f'ollama_model_silence_seconds{{gen_ai_request_model="{MODEL}"}}'
WANTED = {"model": MODEL, "prompt": "Are you there?", "stream": False}


def test_a_model_whose_process_hangs_is_seen_and_another_pod_answers(metrics: Server) -> None:
    """ollama#17428: Ollama itself says that all is well."""
    metrics.chat(MODEL, "Be loaded.", metrics.token())
    pods = metrics.cluster.client().resources.get(api_version="v1", kind="Pod")
    label = "app.kubernetes.io/name=ollama"
    (pod,) = pods.get(namespace="ollama-stack", label_selector=label).items
    metrics.cluster.node.run("pkill", "-STOP", "-f", "ollama runner")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, "POST", f"{metrics.gateway}/api/generate", WANTED, timeout=600)
        assert eventually(lambda: (metrics.value(SILENCE) or 0) > 30)
        assert metrics.value("ollama_up") == 1
        assert MODEL in {model["name"] for model in metrics.loaded()}
        assert not asked.done()
        now = {"gracePeriodSeconds": 5}
        pods.delete(name=pod.metadata.name, namespace="ollama-stack", body=now)
        assert asked.exception() is not None

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
            one["metadata"]["name"]: entry["ip"]
            for one in server.objects("v1", "Service")
            for entry in one["status"].get("loadBalancer", {}).get("ingress") or []
        }

    before = held()
    services = server.cluster.client().resources.get(api_version="v1", kind="Service")
    services.delete(name="open-webui-service-local", namespace="ollama-stack")
    assert eventually(lambda: len(held()) == len(before) - 1)
    server.up()

    assert eventually(lambda: held() == before)
    assert ask("GET", f"{server.page}/health")[0] == 200
