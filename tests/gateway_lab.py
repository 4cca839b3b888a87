"""A gateway, in a thread or a process, with a scripted upstream and a client."""

import asyncio
import base64
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any, NamedTuple

import gateway
from gateway import Gateway
from gateway_settings import Settings
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from scripted import ScriptedServer, whole
from waiting import eventually

TOKEN = "the-token-of-the-model-job"
MANAGES = {"Authorization": f"Bearer {TOKEN}"}
KEY = "the-key-of-the-pseudonyms"
SIZE = 2_000_000_000
BANDWIDTH = 80e9
MODELS = [
    {"name": "llama3.2:3b", "model": "llama3.2:3b", "size": SIZE, "digest": "a8" * 32},
    {"name": "codellama:latest", "model": "codellama:latest", "size": SIZE, "digest": "8f" * 32},
]
LOADED = {
    "name": "llama3.2:3b",
    "size": 3_227_894_413,
    "size_vram": 0,
    "expires_at": "2318-09-17T10:11:12.123456789+02:00",
    "context_length": 8192,
}


def picture(kind: str, width: int, height: int) -> str:
    """Return the beginning of a picture of this size, in base64."""
    png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", width, height)
    jpeg = b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(10) + b"\xff\xff\xc2\0\x11\x08"
    jpeg += struct.pack(">HH", height, width) + bytes(4)
    own = struct.pack("<HH", width, height)
    webp = b"RIFF\0\0\0\0WEBPVP8 " + bytes(4) + b"\0\0\0\x9d\x01\x2a" + own + bytes(6)
    lossless = b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"/"
    lossless += struct.pack("<I", width - 1 | height - 1 << 14) + bytes(5)
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    clear = webp[:12] + b"VP8X\x0a\0\0\0\x10\0\0\0" + sides + webp[12:26] + bytes(10)
    kinds = {"png": png, "jpeg": jpeg, "webp": webp, "webp lossless": lossless, "webp clear": clear}
    return base64.b64encode(kinds[kind] + bytes(-len(kinds[kind]) % 3)).decode()


def scripted_ollama() -> ScriptedServer:
    """Return a server that says what an idle Ollama says."""
    return ScriptedServer(
        {
            "/": whole(b"Ollama is running"),
            "/api/version": whole({"version": "0.33.3"}),
            "/api/tags": whole({"models": MODELS}),
            "/api/ps": whole({"models": [LOADED]}),
        }
    )


class Answer(NamedTuple):
    """A received response."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool


class Point(NamedTuple):
    """A series of a metric."""

    labels: dict[str, str]
    value: Any


def ask(
    port: int, path: str, body: object = None, headers: dict[str, str] | None = None, how: str = ""
) -> Answer:
    """Return the response to a request, read to its end."""
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as client:
        client.request(how or ("GET" if raw is None else "POST"), path, raw, headers or {})
        response = client.getresponse()
        try:
            got, complete = response.read(), True
        except IncompleteRead as error:
            got, complete = error.partial, False
        return Answer(response.status, dict(response.headers), got, complete)


class Lab:
    """A gateway with its upstream, and the number of requests sent to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.upstream = scripted_ollama()
        self.sent = 0
        self.reader = InMemoryMetricReader()
        base: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "upstream": f"http://127.0.0.1:{self.upstream.port}",
            "manage_token": TOKEN,
            "bandwidth": BANDWIDTH,
            "poll_seconds": 0.2,
            "grace_seconds": 5,
        }
        self.settings = Settings(**base | settings)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.gateway = self.run(self.make())
        self.port: int = self.run(self.gateway.start())
        assert eventually(lambda: self.gateway.poller.values["ollama.up"][""])

    async def make(self) -> Gateway:
        """Return the gateway, created in its event loop."""
        return Gateway(self.settings, [self.reader])

    def run(self, work: Any) -> Any:
        """Return the result of a coroutine, run in the gateway's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def ask(self, *args: Any, **kwargs: Any) -> Answer:
        """Return the gateway's response to a request."""
        self.sent += 1
        return ask(self.port, *args, **kwargs)

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return the response until the gateway closes."""
        self.sent += 1
        with socket.create_connection(("127.0.0.1", self.port), 10) as sock:
            sock.sendall(request)
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def connect(self, body: object, path: str = "/api/chat") -> socket.socket:
        """Return the socket of a request whose response the test reads."""
        self.sent += 1
        raw = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), 10)
        start = f"POST {path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(raw)}\r\n\r\n"
        sock.sendall(start.encode() + raw)
        return sock

    def metric(self, name: str) -> list[Point]:
        """Return all series of an instrument."""

        async def read() -> Any:
            return self.reader.get_metrics_data()

        # In the event loop, because otherwise a request could be half recorded.
        data = self.run(read())
        points = [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]
        return [
            Point(
                {key: str(text) for key, text in (it.attributes or {}).items()},
                it.value if hasattr(it, "value") else it,
            )
            for it in points
        ]

    def outcomes(self) -> dict[str, int]:
        """Return the number of requests by outcome, once all sent have one."""

        def count() -> dict[str, int]:
            counts: dict[str, int] = {}
            for labels, value in self.metric("ollama.requests"):
                counts[labels["ollama.outcome"]] = counts.get(labels["ollama.outcome"], 0) + value
            return counts

        assert eventually(lambda: sum(count().values()) >= self.sent)
        return count()

    def close(self) -> None:
        """Stop, and check that each request is counted once and none is in flight."""
        try:
            assert sum(self.outcomes().values()) == self.sent
            in_flight = [it for it in self.metric("ollama.requests.in_flight") if it.value]
            assert in_flight == []
        finally:
            self.run(self.gateway.stop())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
            self.upstream.close()


def limits(home: Lab) -> dict[str, int]:
    """Return the number of requests ended by each limit, once all are counted."""
    home.outcomes()
    return {p.labels["ollama.limit"]: p.value for p in home.metric("ollama.requests.limited")}


@contextmanager
def lab(**settings: Any) -> Iterator[Lab]:
    """Yield a running gateway."""
    home = Lab(settings)
    try:
        yield home
    except BaseException:
        home.sent = 0  # shows the test's own failure
        with suppress(AssertionError):
            home.close()
        raise
    home.close()


@contextmanager
def program(
    upstream: ScriptedServer, **settings: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield the program's process and port, once it listens."""
    own = {
        "GATEWAY_LISTEN": "127.0.0.1:0",
        "GATEWAY_UPSTREAM": f"http://127.0.0.1:{upstream.port}",
        "GATEWAY_PUSH_SECONDS": "0.2",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-u", str(Path(gateway.__file__))]
    with subprocess.Popen(
        command, env=own | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        try:
            listening = next(line for line in process.stdout if line.startswith("port "))
            yield process, int(listening.split()[1])
        finally:
            process.kill()
