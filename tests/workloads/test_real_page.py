"""The real Open WebUI with another embedding model, and with models that hang."""

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from backup_box import PASSWORDS, Box
from page import ask, upload
from scripted import Connection, ScriptedServer, whole
from waiting import eventually

ADMIN = ("admin@homelab.home.arpa", PASSWORDS["WEBUI_ADMIN_PASSWORD"])
TEXT = b"The cellar key hangs behind the clock.\n"


def embed(to: Connection) -> None:
    """Reply with vectors that have the length of the model's tag."""
    request = json.loads(to.body)
    texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
    vector = [0.5] * int(request["model"].rpartition(":")[2])
    whole({"embeddings": [vector] * len(texts)})(to)


@pytest.fixture(scope="module")
def models() -> Iterator[ScriptedServer]:
    """A scripted gateway without a chat model."""
    answer = whole({"models": [], "version": "0.24.0"})
    paths = ("/", "/api/tags", "/api/ps", "/api/version")
    server = ScriptedServer({**dict.fromkeys(paths, answer), "/api/embed": embed})
    yield server
    server.close()


@pytest.fixture(scope="module")
def box(
    programs: dict[str, Path], open_webui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A node on which a test starts Open WebUI."""
    box = Box(tmp_path_factory.mktemp("box"), programs["restic"], open_webui)
    yield box
    box.stop_page()


def start(box: Box, models: ScriptedServer, embedding: str) -> str:
    """Restart Open WebUI with this embedding model, and sign in."""
    box.stop_page()
    url = f"http://127.0.0.1:{models.port}"
    urls = {"OLLAMA_BASE_URL": url, "RAG_OLLAMA_BASE_URL": url}
    box.start_page(**urls, RAG_EMBEDDING_MODEL=embedding, USE_SLIM_DOCKER="false")
    box.wait_for_page()
    return box.sign_in(*ADMIN)


def is_found(box: Box, token: str, collection: str) -> bool:
    """Return whether a query of the collection finds the text."""
    query = {"collection_names": [collection], "query": "Where is the key?", "k": 1}
    status, answer = ask("POST", f"{box.page}/api/v1/retrieval/query/collection", query, token)
    return status == 200 and TEXT.decode().strip() in answer


def test_with_another_embedding_model_a_knowledge_base_is_found_after_a_reindex(
    box: Box, models: ScriptedServer
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


def test_models_that_hang_do_not_block_the_page(box: Box, models: ScriptedServer) -> None:
    # It runs since the test before.
    token = box.sign_in(*ADMIN) if box.page else start(box, models, "short:8")
    over = Event()
    models.replies = dict.fromkeys(models.replies, lambda _: over.wait())
    try:
        for path in ("/api/config", "/api/models", "/ollama/api/tags", "/api/v1/chats/?page=1"):
            status, text = ask("GET", f"{box.page}{path}", token=token, timeout=30)
            assert status == 200, (path, text)
    finally:
        over.set()
