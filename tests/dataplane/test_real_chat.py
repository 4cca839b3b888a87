"""A user at the chat page: the real Open WebUI, the real gateway and the real Ollama."""

from real_house import House, Person, ask
from waiting import eventually

MODELS = {"llama3.2:3b", "codellama:7b", "gemma3:4b"}


def test_nobody_can_sign_up(house: House) -> None:
    stranger = {"name": "X", "email": "x@example.org", "password": "long enough 1"}
    status, _ = ask("POST", f"{house.page}/api/v1/auths/signup", stranger)

    assert status == 403


def test_the_page_lists_the_models_that_the_job_pulled(house: House, person: Person) -> None:
    assert house.models(person.token) >= MODELS


def test_an_answer_is_streamed_in_pieces(house: House, person: Person) -> None:
    # Noise may end at once; three times in a row it hardly does.
    answers = [house.chat("llama3.2:3b", "Say something.", person.token) for _ in range(3)]

    assert max(answer["pieces"] for answer in answers) > 1, answers


def test_who_is_not_let_in_yet_gets_nothing(house: House) -> None:
    token = house.person("pending").token
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
        status, text = ask(method, house.page + path, wanted if method == "POST" else None, token)
        assert status == 401, f"{path}: {status} {text}"


def test_what_is_counted_is_what_was_sent_token_by_token(house: House, person: Person) -> None:
    # One that nobody else has asked in the last seconds, whose count is still on its way.
    model = {"admin@homelab.home.arpa": "codellama:7b"}.get(person.email, "gemma3:4b")
    requests = f'ollama_requests_total{{gen_ai_request_model="{model}", ollama_outcome="ok"}}'

    def counted() -> dict[str, float]:
        usage = f'gen_ai_client_token_usage_sum{{gen_ai_request_model="{model}"'
        return {
            "requests": house.value(f"sum({requests})") or 0,
            "input": house.value(f'{usage}, gen_ai_token_type="input"}}') or 0,
            "output": house.value(f'{usage}, gen_ai_token_type="output"}}') or 0,
        }

    before = counted()
    usages = [house.chat(model, "word " * length, person.token)["usage"] for length in (1, 7, 20)]
    sent = {
        "requests": len(usages),
        "input": sum(usage["prompt_tokens"] for usage in usages),
        "output": sum(usage["completion_tokens"] for usage in usages),
    }
    assert min(sent.values()) > 0

    assert eventually(lambda: counted()["requests"] == before["requests"] + len(usages))
    assert counted() == {what: before[what] + number for what, number in sent.items()}
    assert {one["metric"]["http_route"] for one in house.series(requests)} == {"/api/chat"}


def test_no_series_says_who_it_was(house: House) -> None:
    assert house.series("ollama_requests_total")
    assert house.series('{ollama_user!=""}') == []
