"""A user at the chat page, from the client's side of the home network."""

import json
import re
from collections.abc import Iterator

import pytest
from page import ask
from real_lab import Person, Server
from waiting import eventually

MODELS = {"llama3.2:3b", "codellama:7b", "gemma3:4b"}


def test_the_page_lists_the_models_that_the_job_pulled(server: Server, person: Person) -> None:
    # The Job may still be at it.
    assert eventually(lambda: server.models(person.token) >= MODELS)


def test_an_answer_is_streamed_in_pieces(server: Server, person: Person) -> None:
    # Noise may end at once; three times in a row it hardly does.
    answers = [server.chat("llama3.2:3b", "Say something.", person.token) for _ in range(3)]

    assert max(answer["pieces"] for answer in answers) > 1, answers


@pytest.fixture
def newcomer(server: Server) -> Iterator[str]:
    """Token of somebody who has signed up while the admin had opened that on the page."""
    path, token = f"{server.page}/api/v1/auths/admin/config", server.token()
    closed = json.loads(ask("GET", path, token=token)[1])
    assert ask("POST", path, {**closed, "ENABLE_SIGNUP": True}, token)[0] == 200
    account = {"name": "N", "email": "new@example.org", "password": "a password of 8 or more"}
    status, text = ask("POST", f"{server.page}/api/v1/auths/signup", account)
    assert ask("POST", path, closed, token)[0] == 200
    assert status == 200, text
    person = json.loads(text)
    yield person["token"]
    ask("DELETE", f"{server.page}/api/v1/users/{person['id']}", token=token)


def test_who_signs_up_gets_nothing_before_the_admin_lets_them_in(
    server: Server, newcomer: str
) -> None:
    message = {"role": "user", "content": "Hello?"}
    wanted = {"model": "llama3.2:3b", "messages": [message], "stream": True}

    for method, path in (
        ("GET", "/api/models"),
        ("GET", "/ollama/api/tags"),
        ("POST", "/api/chat/completions"),
        ("POST", "/ollama/api/chat"),
        ("GET", "/api/v1/chats/"),
        ("GET", "/api/v1/files/"),
    ):
        body = wanted if method == "POST" else None
        status, text = ask(method, server.page + path, body, newcomer)
        assert status == 401, f"{path}: {status} {text}"


def test_what_is_counted_is_what_was_sent_token_by_token(metrics: Server, person: Person) -> None:
    # One that nobody else has asked in the last seconds, whose count is still on its way.
    model = "codellama:7b" if person.email == metrics.email else "gemma3:4b"
    requests = f'ollama_requests_total{{gen_ai_request_model="{model}", ollama_outcome="ok"}}'

    def counted() -> dict[str, float]:
        usage = f'gen_ai_client_token_usage_sum{{gen_ai_request_model="{model}"'
        return {
            "requests": metrics.value(f"sum({requests})") or 0,
            "input": metrics.value(f'sum({usage}, gen_ai_token_type="input"}})') or 0,
            "output": metrics.value(f'sum({usage}, gen_ai_token_type="output"}})') or 0,
        }

    before = counted()
    usages = [metrics.chat(model, "word " * length, person.token)["usage"] for length in (1, 20)]
    sent = {
        "requests": len(usages),
        "input": sum(usage["prompt_tokens"] for usage in usages),
        "output": sum(usage["completion_tokens"] for usage in usages),
    }
    assert min(sent.values()) > 0

    assert eventually(lambda: counted()["requests"] == before["requests"] + len(usages))
    assert counted() == {what: before[what] + number for what, number in sent.items()}
    routes = {series["metric"]["http_route"] for series in metrics.series(requests)}
    assert routes == {"/api/chat"}
    assert metrics.series('{ollama_user!=""}') == []


@pytest.mark.faults
def test_users_are_counted_by_pseudonym_and_a_later_model_is_there_for_them(
    metrics: Server,
) -> None:
    later, user = "llama3.2:1b", metrics.person("user")
    assert later not in metrics.models(user.token)
    metrics.config["observability"]["label_users"] = True
    metrics.config["ollama"]["models"].append(later)
    metrics.up()
    assert eventually(lambda: later in metrics.models(user.token))

    usage = metrics.chat(later, "Who am I?", user.token)["usage"]

    labels = f'gen_ai_request_model="{later}", ollama_user!=""'
    tokens = f'gen_ai_client_token_usage_sum{{{labels}, gen_ai_token_type="output"}}'
    (counted,) = eventually(lambda: metrics.series(tokens))
    assert float(counted["value"][1]) == usage["completion_tokens"]
    assert re.fullmatch("[0-9a-f]{8}", counted["metric"]["ollama_user"])
