"""A scripted Ollama that rejects requests that the model Job should not send."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from model_name import canonical

SIZE = 2_019_393_189
TOKEN = "let me in"

Event = dict[str, Any]
Reply = Callable[["Handler"], None]


def layer(completed: int, total: int = SIZE, digest: str = "dde5aa3fc5ff") -> Event:
    """Return a line of progress of a layer."""
    event = {"status": f"pulling {digest}", "digest": f"sha256:{digest}", "total": total}
    return event | ({"completed": completed} if completed else {})


MANIFEST: Event = {"status": "pulling manifest"}
SUCCESS: Event = {"status": "success"}
WHOLE = [MANIFEST, layer(0), layer(SIZE), {"status": "verifying sha256 digest"}, SUCCESS]


def sha(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of the model Job."""

    protocol_version = "HTTP/1.1"
    # Nagle's algorithm delays each small chunk by up to 40 ms.
    disable_nagle_algorithm = True
    server: "FakeOllama"

    def log_message(self, *_args: object) -> None:
        """Log nothing."""

    def answer(self, body: object, status: int = 200) -> None:
        """Send a JSON body; none for None."""
        raw = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        """List the models."""
        if self.server.failing_gets:
            self.server.failing_gets -= 1
            self.answer({"error": "busy"}, 503)
        else:
            models = [
                {"name": name, "size": SIZE, "digest": digest, "modified_at": modified}
                for name, (digest, modified) in self.server.models.items()
            ]
            self.answer({"models": models} if self.path == "/api/tags" else {})

    def do_POST(self) -> None:
        """Load, pull, create or delete a model; all but a load need the token."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        models, request = self.server.models, f"{self.command} {self.path}"
        self.server.requests.append((self.path, body))
        if refusal := self.server.refusals.get(self.path):
            self.answer({"error": refusal}, 500)
        elif request == "POST /api/generate" and body.keys() <= {"model", "stream", "keep_alive"}:
            keep = body.get("keep_alive", 0)
            is_known = body["model"] in models and (isinstance(keep, int) or keep[-1] in "smh")
            self.answer({"done": True}, 200 if is_known and body["stream"] is False else 404)
        elif self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "managing models needs the token"}, 401)
        elif request == "POST /api/pull" and body.keys() == {"model"}:
            self.model = body["model"]
            replies = self.server.replies.get(self.model, [])
            (replies.pop(0) if replies else stream(*WHOLE))(self)
        elif request == "POST /api/create" and body["from"] in models:
            text = json.dumps(body, sort_keys=True) + models[body["from"]][0]
            self.server.put(body["model"], sha(text))
            stream({"status": "writing manifest"}, SUCCESS, listed=False)(self)
        elif request == "DELETE /api/delete" and body["model"] in models:
            del models[body["model"]]
            self.answer(None)
        else:
            self.answer({"error": f"{request}: not found"}, 404)

    do_DELETE = do_POST  # noqa: N815

    def chunk(self, raw: bytes) -> None:
        """Send one chunk of a stream."""
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


class FakeOllama(ThreadingHTTPServer):
    """A server whose pulls are scripted, with one reply per attempt."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, tuple[str, str]] = {}
        """Digest and modification time by name."""
        self.registry: dict[str, str] = {}
        """The registry's digests by name; by default `sha(name)`."""
        self.requests: list[tuple[str, Event]] = []
        self.refusals: dict[str, str] = {}
        """Errors by path."""
        self.replies: dict[str, list[Reply]] = {}
        self.failing_gets = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, digest: str = "") -> None:
        """Add a model, by default with the registry's digest."""
        content = digest or self.registry.get(name, sha(name))
        self.models[name] = (content, f"2026-11-23T06:00:00.{time.monotonic_ns()}Z")

    def pulls(self, name: str) -> int:
        """Return how often a model was pulled."""
        return self.requests.count(("/api/pull", {"model": name}))

    def handle_error(self, *_args: object) -> None:
        """Ignore connections that the client closes."""


def stream(
    *events: Event | bytes, cut: bool = False, pause: float = 0, listed: bool = True
) -> Reply:
    """Reply with these lines; `success` adds the model, `cut` closes the connection."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        # Before `success` is sent, or the client could list the models too early.
        if listed and SUCCESS in events:
            handler.server.put(canonical(handler.model))
        for event in events:
            handler.chunk(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
            time.sleep(pause)
        if cut:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        else:
            handler.wfile.write(b"0\r\n\r\n")

    return reply


def error(text: str) -> Reply:
    """Reply with status 200, and an error in the second line, as a streaming pull does."""
    return stream(MANIFEST, {"error": text})


def status(code: int, text: str) -> Reply:
    """Reply with this status and error."""
    return lambda handler: handler.answer({"error": text}, code)


@contextmanager
def serving(server: FakeOllama) -> Iterator[None]:
    """Run a server in a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
