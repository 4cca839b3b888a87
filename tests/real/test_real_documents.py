"""Documents attached to a chat: the real Open WebUI, its index, the gateway and the real Ollama."""

import json
import random

import pytest
from page import ask, upload
from real_lab import Person, Server
from waiting import eventually

pytestmark = pytest.mark.faults

EMBEDDING = "nomic-embed-text:v1.5"
BYTES = 300_000


def test_a_large_document_is_taken_up_while_its_model_is_not_loaded(
    server: Server, person: Person
) -> None:
    words = random.Random(person.email)
    text = " ".join(f"{words.randrange(10**8):08}" for _ in range(BYTES // 9))
    unload = {"model": EMBEDDING, "input": [], "keep_alive": 0}
    # Of nobody else does the gateway pass a keep_alive on.
    ask("POST", f"{server.gateway}/api/embed", unload, server.manage_token())
    assert eventually(lambda: EMBEDDING not in {model["name"] for model in server.loaded()})

    identity = upload(server.page, person.token, f"{person.email}.txt", text.encode())

    def status() -> str:
        _, answer = ask("GET", f"{server.page}/api/v1/files/{identity}", None, person.token)
        data = json.loads(answer)["data"]
        done = data.get("status") not in (None, "pending", "processing")
        return f"{data['status']} {data.get('error') or ''}".strip() if done else ""

    assert eventually(status) == "completed"
    query = {"collection_name": f"file-{identity}", "query": text[:80], "k": 1}
    code, answer = ask("POST", f"{server.page}/api/v1/retrieval/query/doc", query, person.token)
    assert code == 200, answer
    assert json.loads(answer)["documents"][0]
    if server.has_metrics:
        # Few requests, each with many chunks: more at once than Ollama queues would be refused.
        failed = f'gen_ai_request_model="{EMBEDDING}", ollama_outcome!="ok"'
        assert server.series(f"ollama_requests_total{{{failed}}} > 0") == []
