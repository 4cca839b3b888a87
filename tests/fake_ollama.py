"""A scripted Ollama that rejects requests that the model Job should not send."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from model_name import canonical
from scripted import Connection, ScriptedServer, chunk, head, lines, whole

SIZE = 2_019_393_189
TOKEN = "let me in"

Event = dict[str, Any]
Reply = Callable[["FakeOllama", Connection], object]
"""Answers a pull."""


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


class FakeOllama:
    """A server whose pulls are scripted, with one reply per attempt."""

    def __init__(self) -> None:
        self.models: dict[str, tuple[str, str]] = {}
        """Digest and modification time by name."""
        self.registry: dict[str, str] = {}
        """The registry's digests by name; by default `sha(name)`."""
        self.requests: list[tuple[str, Event]] = []
        self.refusals: dict[str, str] = {}
        """Errors by path."""
        self.replies: dict[str, list[Reply]] = {}
        self.failing_gets = 0
        changes = ("/api/generate", "/api/pull", "/api/create", "/api/delete")
        self.server = ScriptedServer(
            {"/api/tags": self._list, **dict.fromkeys(changes, self._change)}
        )
        self.url = f"http://127.0.0.1:{self.server.port}"

    def put(self, name: str, digest: str = "") -> None:
        """Add a model, by default with the registry's digest."""
        content = digest or self.registry.get(name, sha(name))
        self.models[name] = (content, f"2026-11-23T06:00:00.{time.monotonic_ns()}Z")

    def pulls(self, name: str) -> int:
        """Return how often a model was pulled."""
        return self.requests.count(("/api/pull", {"model": name}))

    def _list(self, to: Connection) -> None:
        if self.failing_gets:
            self.failing_gets -= 1
            whole({"error": "busy"}, "503 Busy")(to)
            return
        models = [
            {"name": name, "size": SIZE, "digest": digest, "modified_at": modified}
            for name, (digest, modified) in self.models.items()
        ]
        whole({"models": models})(to)

    def _change(self, to: Connection) -> None:
        """Load, pull, create or delete a model; all but a load need the token."""
        body, path = json.loads(to.body), to.path
        self.requests.append((path, body))
        request = f"{to.head.split()[0].decode()} {path}"
        is_known, may_change = body["model"] in self.models, f"Bearer {TOKEN}\r".encode() in to.head
        reply = status(404, f"{request}: not found")
        if refusal := self.refusals.get(path):
            reply = status(500, refusal)
        elif request == "POST /api/generate" and body.keys() <= {"model", "stream", "keep_alive"}:
            keep = body.get("keep_alive", 0)
            if is_known and not body["stream"] and (isinstance(keep, int) or keep[-1] in "smh"):
                reply = stream({"done": True})
        elif not may_change:
            reply = status(401, "managing models needs the token")
        elif request == "POST /api/pull" and body.keys() == {"model"}:
            replies = self.replies.get(body["model"], [])
            reply = replies.pop(0) if replies else stream(*WHOLE)
        elif request == "POST /api/create" and body["from"] in self.models:
            text = json.dumps(body, sort_keys=True) + self.models[body["from"]][0]
            self.put(body["model"], sha(text))
            reply = stream({"status": "writing manifest"}, SUCCESS, listed=False)
        elif request == "DELETE /api/delete" and is_known:
            del self.models[body["model"]]
            to.send(head(length=0))
            return
        reply(self, to)


def stream(
    *events: Event | bytes, cut: bool = False, pause: float = 0, listed: bool = True
) -> Reply:
    """Reply with these lines; `success` adds the model, `cut` closes the connection."""

    def reply(ollama: FakeOllama, to: Connection) -> None:
        # Before `success` is sent, or the client could list the models too early.
        if listed and SUCCESS in events:
            ollama.put(canonical(json.loads(to.body)["model"]))
        to.send(head())
        for event in events:
            to.send(chunk(event if isinstance(event, bytes) else lines(event)))
            time.sleep(pause)
        if not cut:
            to.send(b"0\r\n\r\n")

    return reply


def error(text: str) -> Reply:
    """Reply with status 200, and an error in the second line, as a streaming pull does."""
    return stream(MANIFEST, {"error": text})


def status(code: int, text: str) -> Reply:
    """Reply with this status and error."""
    return lambda _, to: whole({"error": text}, f"{code} Status")(to)


def silence(_: FakeOllama, to: Connection) -> None:
    """Reply with the first line of a pull, and nothing more."""
    to.send(head() + chunk(lines(MANIFEST)))
    to.wait_closed(30)
