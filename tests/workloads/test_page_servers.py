"""Open WebUI with two model servers, one of which goes: what a person sees, and for how long."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from backup_box import PASSWORDS, Box
from harness import deploy_program, two_servers
from page import ask, send_json
from waiting import eventually

ONE, BOTH = "one:1b", "both:1b"


class Handler(BaseHTTPRequestHandler):
    """Has models, and answers chats with its own name."""

    server: "Ollama"

    def log_message(self, *_args: object) -> None:
        """Keep the tests' output clean."""

    def do_GET(self) -> None:
        """List the models; all are on the disk, none in memory."""
        models = self.server.models if self.path == "/api/tags" else []
        self.answer({"models": [{"name": name, "model": name} for name in models]})

    def do_POST(self) -> None:
        """Answer a chat."""
        self.rfile.read(int(self.headers["Content-Length"]))
        said = {"role": "assistant", "content": self.server.name}
        self.answer({"model": BOTH, "message": said, "done": True})

    def answer(self, body: object) -> None:
        """Send JSON, or nothing at all if the server is silent."""
        if not self.server.speaks.wait(60):
            return
        # Open WebUI has gone away from a server that was silent.
        with suppress(BrokenPipeError):
            send_json(self, body)


class Ollama(ThreadingHTTPServer):
    """A scripted Ollama, of which there may be several."""

    daemon_threads = True

    def __init__(self, name: str, models: list[str], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name, self.models = name, models
        self.speaks = threading.Event()
        self.speaks.set()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def stop(self) -> None:
        """Let connections to its port be refused."""
        self.shutdown()
        self.server_close()


class Page:
    """The page, with its two servers, and an account."""

    def __init__(self, folder: Path, open_webui: Path) -> None:
        self.servers = [Ollama("first", [BOTH]), Ollama("second", [BOTH, ONE])]
        box = self.box = Box(folder, Path("restic"), open_webui)
        box.lab = deploy_program("home", two_servers())
        urls = ";".join(f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        box.start_page(OLLAMA_BASE_URLS=urls)
        box.wait_for_page()
        email = box.lab.outputs["open_webui_email"]
        self.token = box.sign_in(email, PASSWORDS["WEBUI_ADMIN_PASSWORD"])

    def models(self) -> set[str]:
        """Give the models in the list, as a reload of the page does."""
        status, text = ask("GET", f"{self.box.page}/api/models", token=self.token)
        assert status == 200, text
        return {model["id"] for model in json.loads(text)["data"]}

    def chat(self, model: str) -> str:
        """Give who answers, or the error."""
        body = {"model": model, "stream": False, "messages": [{"role": "user", "content": "hi"}]}
        _, text = ask("POST", f"{self.box.page}/api/chat/completions", body, self.token)
        answer: dict[str, Any] = json.loads(text)
        if "choices" in answer:
            return str(answer["choices"][0]["message"]["content"])
        return str(answer["detail"])

    def chats(self, model: str = BOTH) -> Counter[str]:
        """Count who answers twenty chats."""
        return Counter(self.chat(model) for _ in range(20))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, open_webui: Path) -> Iterator[Page]:
    """The page with two servers that answer; the last test leaves one silent."""
    made = Page(tmp_path_factory.mktemp("page"), open_webui)
    yield made
    made.box.stop_page()
    for server in made.servers:
        server.speaks.set()
        server.stop()


def test_one_of_two_servers_goes_and_comes_back(page: Page) -> None:
    assert page.models() == {ONE, BOTH}
    assert page.chats().keys() == {"first", "second"}

    second = page.servers.pop()
    second.stop()
    # Open WebUI chooses at random and does not try the other.
    (error,) = [said for said in page.chats() if said != "first"]
    assert "Cannot connect to host" in error

    # Open WebUI keeps a list for a second.
    assert eventually(lambda: page.models() == {BOTH})
    assert page.chats().keys() == {"first"}
    assert page.chat(ONE) == "Model not found"

    page.servers.append(Ollama("second", [BOTH, ONE], second.server_port))
    assert eventually(lambda: page.models() == {ONE, BOTH})
    assert page.chats().keys() == {"first", "second"}


def test_a_server_that_is_silent_does_not_hold_the_list_of_models(
    page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    page.servers[1].speaks.clear()
    took = 0.0

    def without_it() -> bool:
        nonlocal took
        began = time.monotonic()
        listed = page.models()
        took = time.monotonic() - began
        return listed == {BOTH}

    assert eventually(without_it)
    with capsys.disabled():
        print(f"\nlist of models with one of two servers silent: {took:.1f} s")
    assert page.chats().keys() == {"first"}
