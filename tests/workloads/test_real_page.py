"""The real Open WebUI with another embedding model, and with models that hang."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from backup_box import PASSWORDS, Box
from page import ask, send_json, upload
from waiting import eventually

ADMIN = ("admin@homelab.home.arpa", PASSWORDS["WEBUI_ADMIN_PASSWORD"])
TEXT = b"The cellar key hangs behind the clock.\n"


class Models(ThreadingHTTPServer):
    """A scripted gateway: its vectors have the length of the model's tag; it may hang."""

    daemon_threads = True

    def __init__(self) -> None:
        self.hangs, self.over = False, Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server: Models

            def do_GET(self) -> None:
                self.answer({"models": [], "version": "0.24.0"})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                size = int(request["model"].rpartition(":")[2])
                texts = (
                    request["input"] if isinstance(request["input"], list) else [request["input"]]
                )
                self.answer({"embeddings": [[0.5] * size for _ in texts]})

            def answer(self, body: object) -> None:
                if self.server.hangs:
                    self.server.over.wait()
                    return
                send_json(self, body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> dict[str, str]:
        """Open WebUI's variables with this server's URL."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {"OLLAMA_BASE_URL": url, "RAG_OLLAMA_BASE_URL": url}


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models() as models:
        yield models
        models.over.set()
        models.shutdown()


@pytest.fixture(scope="module")
def box(
    programs: dict[str, Path], open_webui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A node on which a test starts Open WebUI."""
    box = Box(tmp_path_factory.mktemp("box"), programs["restic"], open_webui)
    yield box
    box.stop_page()


def start(box: Box, models: Models, embedding: str) -> str:
    """Restart Open WebUI with this embedding model, and sign in."""
    box.stop_page()
    box.start_page(**models.url, RAG_EMBEDDING_MODEL=embedding, USE_SLIM_DOCKER="false")
    box.wait_for_page()
    return box.sign_in(*ADMIN)


def is_found(box: Box, token: str, collection: str) -> bool:
    """Return whether a query of the collection finds the text."""
    query = {"collection_names": [collection], "query": "Where is the key?", "k": 1}
    status, answer = ask("POST", f"{box.page}/api/v1/retrieval/query/collection", query, token)
    return status == 200 and TEXT.decode().strip() in answer


def test_with_another_embedding_model_a_knowledge_base_is_found_after_a_reindex(
    box: Box, models: Models
) -> None:
    token = start(box, models, "short:8")
    knowledge = {"name": "House", "description": "Where things are"}
    status, text = ask("POST", f"{box.page}/api/v1/knowledge/create", knowledge, token)
    assert status == 200, text
    base: Any = json.loads(text)["id"]
    file = upload(box.page, token, "key.txt", TEXT)
    added = f"{box.page}/api/v1/knowledge/{base}/file/add"
    # Open WebUI extracts the text in the background.
    assert eventually(lambda: ask("POST", added, {"file_id": file}, token)[0] == 200)
    assert is_found(box, token, base)

    token = start(box, models, "long:16")
    assert not is_found(box, token, base)
    assert ask("POST", f"{box.page}/api/v1/knowledge/reindex", {}, token)[0] == 200

    assert is_found(box, token, base)


def test_models_that_hang_do_not_block_the_page(box: Box, models: Models) -> None:
    # It runs since the test before.
    token = box.sign_in(*ADMIN) if box.page else start(box, models, "short:8")
    models.hangs = True
    try:
        for path in ("/api/config", "/api/models", "/ollama/api/tags", "/api/v1/chats/?page=1"):
            status, text = ask("GET", f"{box.page}{path}", token=token, timeout=30)
            assert status == 200, (path, text)
    finally:
        models.hangs = False
