"""What happens, and what is seen of it, when pods end: by accident, and as they are told."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from page import ask
from real_lab import Server
from waiting import eventually

# Ollama takes llama3.2:3b and :1b, which have one content here, for one model.
MODEL = "gemma3:4b"
LOADED = f'ollama_model_loaded_size_bytes{{gen_ai_request_model="{MODEL}"}}'


def pods(server: Server) -> dict[str, bool]:
    """The pods of Ollama's Deployment by name, and whether each is ready after a restart."""
    resource = server.cluster.client().resources.get(api_version="v1", kind="Pod")
    items = resource.get(namespace="ollama-stack").to_dict()["items"]
    found = {}
    for item in items:
        name, status = item["metadata"]["name"], item["status"]
        if name.startswith("ollama-") and "-models-" not in name:
            containers = [*status["containerStatuses"], *status["initContainerStatuses"]]
            again = sum(container["restartCount"] for container in containers) > 0
            found[name] = again and all(container["ready"] for container in containers)
    return found


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


def test_running_answers_are_finished_when_the_pod_is_told_to_end(server: Server) -> None:
    assert eventually(server.answers)
    (name,) = pods(server)

    def generate(seed: int) -> tuple[bool, float]:
        options = {"num_predict": 500, "temperature": 1, "seed": seed}
        wanted = {"model": MODEL, "prompt": "x", "options": options}
        _, text = ask("POST", f"{server.gateway}/api/generate", wanted, timeout=300)
        return json.loads(text.splitlines()[-1]).get("done"), time.monotonic()

    # One at a time is answered, and the others wait.
    with ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(generate, seed) for seed in range(60)]
        assert eventually(lambda: any(answer.done() for answer in asked))
        resource = server.cluster.client().resources.get(api_version="v1", kind="Pod")
        resource.delete(name=name, namespace="ollama-stack")
        told = time.monotonic()
        answers = [answer.result() for answer in asked]

    assert {done for done, _ in answers} == {True}
    # Otherwise all was over before it was told to end.
    assert max(moment for _, moment in answers) > told
    assert eventually(lambda: pods(server) and name not in pods(server))
    assert eventually(server.answers)
