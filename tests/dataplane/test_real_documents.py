"""Documents attached to a chat: the real Open WebUI, its index, the gateway and the real Ollama."""

import json
import random
from http.client import HTTPConnection
from urllib.parse import urlsplit

from real_house import House, Person, ask
from waiting import eventually

EMBEDDING = "nomic-embed-text:v1.5"
MEGABYTES = 5
# Some 5,500 chunks of 1,000 characters.
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


def test_a_large_document_is_taken_up_while_its_model_is_not_loaded(
    house: House, person: Person
) -> None:
    words = random.Random(person.email)
    text = " ".join(f"{words.randrange(10**8):08}" for _ in range(MEGABYTES * 10**6 // 9))
    requests = f'ollama_requests_total{{gen_ai_request_model="{EMBEDDING}"'

    def counted() -> tuple[float, float]:
        """Requests that were answered, and others."""
        good, other = (f'sum({requests}, ollama_outcome{sign}"ok"}})' for sign in ("=", "!="))
        return house.value(good) or 0, house.value(other) or 0

    unload = {"model": EMBEDDING, "input": [], "keep_alive": 0}
    ask("POST", f"{house.gateway}/api/embed", unload)
    assert eventually(lambda: EMBEDDING not in ask("GET", f"{house.gateway}/api/ps")[1])
    before = counted()

    identity = attach(house, person, f"{person.email}.txt", text)

    def status() -> str:
        _, answer = ask("GET", f"{house.page}/api/v1/files/{identity}", None, person.token)
        data = json.loads(answer)["data"]
        done = data.get("status") not in (None, "pending", "processing")
        return f"{data['status']} {data.get('error') or ''}".strip() if done else ""

    assert eventually(status, PATIENCE) == "completed"
    # Few requests, each with many chunks: more at once than Ollama queues would be refused.
    chunks = len(text) / 1000
    assert eventually(lambda: counted()[0] - before[0] >= chunks / 32)
    assert counted()[0] - before[0] <= chunks / 8
    assert counted()[1] == before[1]
    query = {"collection_name": f"file-{identity}", "query": text[:80], "k": 1}
    code, answer = ask("POST", f"{house.page}/api/v1/retrieval/query/doc", query, person.token)
    assert code == 200, answer
    assert json.loads(answer)["documents"][0]
