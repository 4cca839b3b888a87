"""An HTTP server whose every byte a test decides."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Reply = Callable[["Connection"], object]


def lines(*events: dict[str, Any]) -> bytes:
    """Return events as Ollama's NDJSON."""
    return b"".join(json.dumps(it, separators=(",", ":")).encode() + b"\n" for it in events)


def head(status: str = "200 OK", kind: str = "application/x-ndjson", length: int = -1) -> bytes:
    """Return the head of a response, chunked without a length."""
    framing = f"Content-Length: {length}" if length >= 0 else "Transfer-Encoding: chunked"
    start = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n"
    return f"{start}{framing}\r\n\r\n".encode()


def chunk(raw: bytes) -> bytes:
    """Return a chunk of a chunked response."""
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


def stream(*pieces: bytes, pause: float = 0, kind: str = "application/x-ndjson") -> Reply:
    """Reply with these pieces, each in its own chunk and packet."""

    def reply(connection: "Connection") -> None:
        connection.send(head(kind=kind))
        for piece in pieces:
            connection.send(chunk(piece))
            time.sleep(pause)
        connection.send(b"0\r\n\r\n")

    return reply


def whole(body: object, status: str = "200 OK") -> Reply:
    """Reply with a body and its length."""
    raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return lambda to: to.send(head(status, "application/json", len(raw)) + raw)


class Connection:
    """A received request, and its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with sock.makefile("rb") as file:
            self.head = b""
            while (line := file.readline()) != b"\r\n":
                if not line:
                    raise ConnectionError("closed before it had asked")
                self.head += line
            fields = self.head.lower()
            self.body = b""
            if b"content-length:" in fields:
                length = int(fields.partition(b"content-length:")[2].split(b"\r\n")[0])
                self.body = file.read(length)
            elif b"transfer-encoding: chunked" in fields:
                while size := int(file.readline(), 16):
                    self.body += file.read(size)
                    file.readline()
                file.readline()

    @property
    def path(self) -> str:
        """Return the path of the request, with its query."""
        return self.head.split(b" ")[1].decode()

    def send(self, raw: bytes) -> None:
        """Send bytes; in response to HEAD only the head."""
        if self.head.startswith(b"HEAD "):
            raw = raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        self.sock.sendall(raw)

    def wait_closed(self, seconds: float = 5) -> bool:
        """Return whether the peer closes within `seconds`."""
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


class ScriptedServer:
    """An HTTP server that sends the reply of a path, byte for byte."""

    def __init__(self, replies: dict[str, Reply], port: int = 0) -> None:
        self.replies = replies
        self.seen: list[Connection] = []
        self.serving = [threading.Thread(target=self.accept, daemon=True)]
        self.server = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port = self.server.getsockname()[1]
        self.serving[0].start()

    def accept(self) -> None:
        """Serve each connection in its own thread."""
        with suppress(OSError):
            while True:
                sock, _ = self.server.accept()
                it = threading.Thread(target=self.serve, args=(sock,), daemon=True)
                self.serving.append(it)
                it.start()

    def serve(self, sock: socket.socket) -> None:
        """Serve a request."""
        with sock, suppress(OSError, ValueError, IndexError):
            connection = Connection(sock)
            self.seen.append(connection)
            path = connection.path.partition("?")[0]
            self.replies.get(path, whole({"error": "no such page"}, "404 Not Found"))(connection)
            sock.shutdown(socket.SHUT_WR)

    def got(self, path: str) -> list[Connection]:
        """Return the requests for a path."""
        return [it for it in self.seen if it.path == path]

    def close(self) -> None:
        """Stop accepting, and check that all threads end, which would otherwise use a core."""
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for it in self.serving:  # the one that accepts first: it may be adding to them
            it.join(10)
            assert not it.is_alive()
