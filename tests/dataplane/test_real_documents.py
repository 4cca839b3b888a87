"""Documents attached to a chat: the real Open WebUI, its index, the gateway and the real Ollama."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

from real_house import House, Person, ask
from waiting import eventually

EMBEDDING = "nomic-embed-text:v1.5"
MODELS = {"llama3.2:3b", "codellama:7b", "gemma3:4b"}
MEGABYTES = 5
EACH = 150
# Some 5,500 chunks of 1,000 characters, after the chats.
PATIENCE = 240.0


def attach(house: House, person: Person, name: str, text: str) -> str:
    """Upload a text as the page does, and give the file's id."""
    boundary = "----a-boundary"
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"'
    body = f"--{boundary}\r\n{head}\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--{boundary}--\r\n"
    connection = HTTPConnection(urlsplit(house.page).netloc, timeout=60)
    headers = {
        "Authorization": f"Bearer {person.token}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    connection.request("POST", "/api/v1/files/", body.encode(), headers)
    answer = connection.getresponse()
    answered = answer.read().decode()
    connection.close()
    assert answer.status == 200, answered
    identity: str = json.loads(answered)["id"]
    return identity


def test_a_large_document_is_taken_up_while_its_model_waits_to_be_loaded(
    house: House, person: Person
) -> None:
    words = random.Random(person.email)
    text = " ".join(f"{words.randrange(10**8):08}" for _ in range(MEGABYTES * 10**6 // 9))
    outcome = f'ollama_requests_total{{gen_ai_request_model="{EMBEDDING}", ollama_outcome!="ok"}}'
    refused = house.value(f"sum({outcome})") or 0

    def chat(model: str) -> bool:
        options = {"num_predict": 1000, "temperature": 1}
        asked = {"model": model, "prompt": "x", "options": options, "stream": False}
        answer = ask("POST", f"{house.gateway}/api/generate", asked, timeout=300)[1]
        return bool(json.loads(answer)["done"])

    def loaded() -> set[str]:
        models = json.loads(ask("GET", f"{house.gateway}/api/ps")[1])["models"]
        return {model["name"] for model in models}

    # A model that answers is not unloaded, and these three are all that may be in memory.
    with ThreadPoolExecutor(len(MODELS) * EACH) as pool:
        chats = {model: [pool.submit(chat, model) for _ in range(EACH)] for model in MODELS}
        assert eventually(lambda: loaded() == MODELS)
        identity = attach(house, person, f"{person.email}.txt", text)
        time.sleep(3)  # until all of it is on its way, were it all at once
        assert not any(all(one.done() for one in chats[model]) for model in MODELS)

        def status() -> str:
            _, answer = ask("GET", f"{house.page}/api/v1/files/{identity}", None, person.token)
            data = json.loads(answer)["data"]
            done = data.get("status") not in (None, "pending", "processing")
            return f"{data['status']} {data.get('error') or ''}".strip() if done else ""

        assert eventually(status, PATIENCE) == "completed"
        assert all(one.result() for model in MODELS for one in chats[model])

    assert (house.value(f"sum({outcome})") or 0) == refused
    embedded = f'gen_ai_client_token_usage_sum{{gen_ai_request_model="{EMBEDDING}"}}'
    assert eventually(lambda: house.series(embedded))
    query = {"collection_name": f"file-{identity}", "query": text[:80], "k": 1}
    code, answer = ask("POST", f"{house.page}/api/v1/retrieval/query/doc", query, person.token)
    assert code == 200, answer
    assert json.loads(answer)["documents"][0]
