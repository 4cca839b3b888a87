"""Open WebUI with two model servers, one of which fails."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from backup_box import PASSWORDS, Box
from harness import deploy_program, two_servers
from page import ask
from scripted import ScriptedServer, whole
from waiting import eventually

ONE, BOTH = "one:1b", "both:1b"
HTTPS = "https://evo4t.tail1234.ts.net"
"""As `tailscale serve` publishes the page."""


def server(name: str, models: list[str], port: int = 0) -> ScriptedServer:
    """Return an Ollama that lists these models, and answers chats with its name."""
    listed = [{"name": model, "model": model} for model in models]
    message = {"role": "assistant", "content": name}
    answer = whole({"model": BOTH, "message": message, "response": name, "done": True})
    return ScriptedServer(
        {
            "/api/tags": whole({"models": listed}),
            "/api/ps": whole({"models": []}),
            **dict.fromkeys(("/api/chat", "/api/generate"), answer),
        },
        port,
    )


class Page:
    """Open WebUI with two model servers, and the admin's token."""

    def __init__(self, folder: Path, open_webui: Path) -> None:
        self.servers = [server("first", [BOTH]), server("second", [BOTH, ONE])]
        box = self.box = Box(folder, Path("restic"), open_webui)
        config = two_servers()
        config["webui"]["origins"] = [HTTPS]
        box.deployment = deploy_program("home", config)
        urls = ";".join(f"http://127.0.0.1:{server.port}" for server in self.servers)
        box.start_page(OLLAMA_BASE_URLS=urls)
        box.wait_for_page()
        email = box.deployment.outputs["open_webui_email"]
        self.token = box.sign_in(email, PASSWORDS["WEBUI_ADMIN_PASSWORD"])

    def models(self) -> set[str]:
        """Return the models, as a reload of the page lists them."""
        status, text = ask("GET", f"{self.box.page}/api/models", token=self.token)
        assert status == 200, text
        return {model["id"] for model in json.loads(text)["data"]}

    def chat(self, model: str) -> str:
        """Return the name of the server that answers, or the error."""
        body = {"model": model, "stream": False, "messages": [{"role": "user", "content": "hi"}]}
        _, text = ask("POST", f"{self.box.page}/api/chat/completions", body, self.token)
        answer: dict[str, Any] = json.loads(text)
        if "choices" in answer:
            return str(answer["choices"][0]["message"]["content"])
        return str(answer["detail"])

    def chats(self, model: str = BOTH) -> Counter[str]:
        """Count the answers of 20 chats."""
        return Counter(self.chat(model) for _ in range(20))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, open_webui: Path) -> Iterator[Page]:
    """The page with two servers that answer; the last test silences one."""
    open_page = Page(tmp_path_factory.mktemp("page"), open_webui)
    yield open_page
    open_page.box.stop_page()
    for server in open_page.servers:
        server.close()


def test_the_websocket_opens_under_every_name_of_the_page_and_no_other(page: Page) -> None:
    def status(origin: str) -> int:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": origin}
        upgrade |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
        with closing(HTTPConnection(urlsplit(page.box.page).netloc, timeout=20)) as client:
            client.request("GET", "/ws/socket.io/?EIO=4&transport=websocket", headers=upgrade)
            return client.getresponse().status

    origins = page.box.deployment.outputs["open_webui_origins"]
    assert HTTPS in origins
    assert {origin: status(origin) for origin in origins} == dict.fromkeys(origins, 101)
    assert status("https://evil.example") == 403


@pytest.mark.parametrize("role", ["admin", "user"])
def test_every_account_has_the_models_by_every_way(page: Page, role: str) -> None:
    token = page.token
    if role == "user":
        account = {"name": "Kid", "email": "kid@example.org", "password": "long enough 1"}
        added = f"{page.box.page}/api/v1/auths/add"
        assert ask("POST", added, account | {"role": role}, page.token)[0] == 200
        token = page.box.sign_in(account["email"], account["password"])

    def asked(method: str, path: str, body: object = None, bearer: str = token) -> tuple[int, str]:
        return ask(method, page.box.page + path, body, bearer)

    chat = {"model": BOTH, "stream": False, "messages": [{"role": "user", "content": "hi"}]}
    code = {"model": BOTH, "stream": False, "prompt": "<PRE> a <SUF> b <MID>"}
    for method, path, body, expected in (
        ("GET", "/api/models", None, BOTH),
        ("GET", "/ollama/api/tags", None, BOTH),
        ("POST", "/api/chat/completions", chat, "first|second"),
        ("POST", "/ollama/api/chat", chat, "first|second"),
        ("POST", "/ollama/api/generate", code, "first|second"),
    ):
        status, text = asked(method, path, body)
        assert status == 200, (path, text)
        assert re.search(expected, text), path

    # docs/people.md: keys are the admin's, and open two paths only.
    status, text = asked("POST", "/api/v1/auths/api_key", {})
    assert status == (200 if role == "admin" else 403), text
    if role == "admin":
        key = json.loads(text)["api_key"]
        assert asked("POST", "/ollama/api/generate", code, key)[0] == 200
        for method, path in (("GET", "/api/models"), ("POST", "/ollama/api/chat")):
            assert asked(method, path, chat if method == "POST" else None, key)[0] == 403


def test_models_of_a_stopped_server_disappear_and_come_back(page: Page) -> None:
    assert page.models() == {ONE, BOTH}
    assert page.chats().keys() == {"first", "second"}

    second = page.servers.pop()
    second.close()
    # Open WebUI chooses a server at random, and does not try the other one.
    (error,) = [answer for answer in page.chats() if answer != "first"]
    assert "Cannot connect to host" in error

    # Open WebUI caches the list for 1 s.
    assert eventually(lambda: page.models() == {BOTH})
    assert page.chats().keys() == {"first"}
    assert page.chat(ONE) == "Model not found"

    page.servers.append(server("second", [BOTH, ONE], second.port))
    assert eventually(lambda: page.models() == {ONE, BOTH})
    assert page.chats().keys() == {"first", "second"}


def test_a_silent_server_does_not_block_the_list_of_models(page: Page) -> None:
    silent = page.servers[1]
    silent.replies = dict.fromkeys(silent.replies, lambda to: to.wait_closed(60))

    assert eventually(lambda: page.models() == {BOTH})
    assert page.chats().keys() == {"first"}
