"""The gateway under attack: each input that takes memory or time has a limit."""

import asyncio
import gc
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import pytest
from gateway_bodies import SMALL_BODY
from gateway_lab import (
    TOKEN,
    Lab,
    lab,
    limits,
    picture,
    program,
    scripted_ollama,
)
from scripted import (
    Connection,
    chunk,
    head,
    lines,
    whole,
)
from waiting import eventually

MODEL = "llama3.2:3b"
POST = "POST /api/chat HTTP/1.1\r\nHost: a\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode()


@pytest.fixture
def home() -> Iterator[Lab]:
    with lab() as home:
        home.upstream.replies |= dict.fromkeys(["/api/chat", "/api/show"], whole({"done": True}))
        yield home


@pytest.fixture
def hurried() -> Iterator[Lab]:
    """A gateway with short timeouts."""
    with lab(client_seconds=0.5, idle_seconds=0.5) as home:
        yield home


def answered(sock: socket.socket) -> bytes:
    """Return the response until the gateway closes, which it must."""
    sock.settimeout(30)
    got = b""
    with suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            got += piece
    return got


def opened(home: Lab, start: bytes) -> socket.socket:
    """Return a connection with the beginning of a request."""
    sock = socket.create_connection(("127.0.0.1", home.port), 10)
    sock.sendall(start)
    return sock


# Incomplete requests

LATE = {
    "no body": (f"{POST}Content-Length: 9\r\n\r\n".encode(), b""),
    "half a body": (f"{POST}Content-Length: 9\r\n\r\n".encode(), b"{"),
    "half a chunk": (CHUNKED + b"5\r\nabc", b"d"),
    "a bad size": (CHUNKED + b"5\r\nabcde\r\n", b"zz\r\n"),
    "a bad end": (CHUNKED + b"5\r\nabcde\r\n", b"5\r\nabcdeXX"),
    "a bad trailer": (CHUNKED + b"5\r\nabcde\r\n", b"0\r\nbad trailer\x00\r\n\r\n"),
}


def test_a_body_that_does_not_end_is_refused(hurried: Lab) -> None:
    hurried.sent += len(LATE)
    with ExitStack() as closed:
        socks = {
            name: closed.enter_context(closing(opened(hurried, first)))
            for name, (first, _) in LATE.items()
        }
        time.sleep(0.1)  # a packet of its own
        for name, (_, second) in LATE.items():
            socks[name].sendall(second)
        got = {name: answered(sock) for name, sock in socks.items()}

    answers = {name: (text[:13], text.count(b"HTTP/1.")) for name, text in got.items()}
    assert answers == dict.fromkeys(LATE, (b"HTTP/1.1 408 ", 1))
    assert limits(hurried) == {"silence": len(LATE)}
    assert hurried.outcomes() == {"bad_request": len(LATE)}
    assert hurried.upstream.got("/api/chat") == []


def test_a_head_that_does_not_end_is_closed(hurried: Lab) -> None:
    whole_head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    starts = [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX: y"]
    hurried.sent += len(starts)
    with ExitStack() as closed:
        first = [closed.enter_context(closing(opened(hurried, start))) for start in starts]
        later = [
            closed.enter_context(closing(opened(hurried, whole_head + start))) for start in starts
        ]
        assert [answered(sock) for sock in first] == [b""] * len(starts)
        assert [answered(sock).count(b"HTTP/1.1") for sock in later] == [1] * len(starts)
    assert eventually(lambda: hurried.gateway.server.connections == [])


def test_a_model_file_that_does_not_end_is_refused(hurried: Lab) -> None:
    path = "/api/blobs/sha256:" + "0a" * 32
    hurried.sent += 1
    start = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
    with closing(opened(hurried, start.encode() + b"Content-Length: 9\r\n\r\nabc")) as sock:
        assert answered(sock).startswith(b"HTTP/1.1 408 ")
    assert limits(hurried) == {"silence": 1}


def test_a_client_that_reads_nothing_is_disconnected(hurried: Lab) -> None:
    ended: list[bool] = []

    def endless(to: Connection) -> None:
        to.send(head())
        with suppress(OSError):
            while True:
                to.send(chunk(lines({"response": "x" * 60_000})))
        ended.append(True)

    hurried.upstream.replies["/api/chat"] = endless
    with closing(hurried.connect({"model": MODEL})):
        assert eventually(lambda: ended)
        assert eventually(lambda: hurried.gateway.server.connections == [])
    assert limits(hurried) == {"silence": 1}
    assert hurried.outcomes() == {"client_cancel": 1}


def test_a_client_that_does_not_read_the_last_bytes_is_disconnected(hurried: Lab) -> None:
    """Shorter than what the kernels of both sides hold, and a little more."""
    sizes = iter(range(1_000_000, 9_000_000, 250_000))
    hurried.upstream.replies["/api/chat"] = lambda to: whole(b"x" * next(sizes))(to)
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(closing(hurried.connect({"model": MODEL})))
        assert eventually(lambda: hurried.gateway.server.connections == [])
    hurried.outcomes()


# Too large


def wide(headers: int, size: int) -> bytes:
    fields = "".join(f"X-{n}: {'a' * size}\r\n" for n in range(headers))
    return f"GET / HTTP/1.1\r\nHost: a\r\n{fields}".encode()


@pytest.mark.parametrize(
    "attempt",
    [
        wide(1, 5000),
        wide(40, 1),
        b"GET /" + b"a" * 5000,
        wide(30, 4000) + b"X-Last: " + b"a" * 5000,
    ],
)
def test_a_head_too_large_is_refused_before_it_ends(home: Lab, attempt: bytes) -> None:
    home.sent += 1
    with closing(opened(home, attempt[:100])) as sock:
        time.sleep(0.05)
        sock.sendall(attempt[100:])
        assert answered(sock).startswith((b"HTTP/1.1 431 ", b"HTTP/1.0 431 "))
    assert limits(home) == {"head": 1}
    assert home.outcomes() == {"bad_request": 1}


def test_the_largest_allowed_head_is_accepted(home: Lab) -> None:
    fields = {f"X-{n}": "a" * 4000 for n in range(20)}
    assert home.ask("/", headers=fields).status == 200


def test_connections_are_bounded() -> None:
    with lab(connections=10) as home, ExitStack() as stack:
        held = [stack.enter_context(closing(opened(home, b""))) for _ in range(10)]
        assert eventually(lambda: len(home.gateway.server.connections) == 10)

        for _ in range(3):
            home.sent += 1
            with closing(opened(home, b"")) as sock:
                assert answered(sock).startswith(b"HTTP/1.1 503 ")

        assert home.outcomes() == {"busy": 3}
        assert limits(home) == {"connections": 3}
        held.pop().close()
        assert eventually(lambda: len(home.gateway.server.connections) == 9)
        assert home.ask("/").status == 200


def test_bodies_together_are_bounded_and_small_ones_always_pass() -> None:
    with lab(bodies_bytes=1_000_000) as home, ExitStack() as stack:
        home.upstream.replies["/api/chat"] = whole({"done": True})
        budget = home.gateway.bodies
        large = f"{POST}Content-Length: 1000000\r\n\r\n".encode() + b" " * 600_000
        stack.enter_context(closing(opened(home, large)))
        assert eventually(lambda: budget.held == 600_000 - SMALL_BODY)

        home.sent += 1
        with closing(opened(home, large)) as sock:
            assert answered(sock).startswith(b"HTTP/1.1 503 ")
        small = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 30_000}]}
        assert [home.ask("/api/chat", small).status for _ in range(20)] == [200] * 20

        assert limits(home) == {"bodies": 1}
        assert budget.held == 600_000 - SMALL_BODY
        stack.close()
        home.sent += 1
        assert home.outcomes() == {"busy": 1, "ok": 20, "client_cancel": 1}
        assert budget.held == 0


def views(size: int) -> list[memoryview]:
    """Return all memory views of `size` bytes or more."""
    return [o for o in gc.get_objects() if isinstance(o, memoryview) and o.nbytes >= size]


def test_a_body_is_held_until_ollama_has_it_and_no_longer(home: Lab) -> None:
    answer: list[bool] = []

    def late(to: Connection) -> None:
        assert eventually(lambda: answer)
        whole({"done": True})(to)

    home.upstream.replies["/api/chat"] = late
    body = {"model": MODEL, "images": [picture("png", 9, 9) + "aBcD" * 1_000_000]}
    with closing(home.connect(body)):
        assert eventually(lambda: home.upstream.got("/api/chat"))
        assert eventually(lambda: home.gateway.bodies.held == 0)
        # Neither by a frame that waits for the answer.
        assert eventually(lambda: not views(1_000_000))
        answer.append(True)
        assert home.outcomes() == {"ok": 1}


def test_pipelined_requests_are_not_read_into_memory(home: Lab) -> None:
    """A connection holds at most one head besides the request that is being answered."""
    all_sent = threading.Event()

    def late(to: Connection) -> None:
        assert all_sent.wait(60)
        whole({"done": True})(to)

    home.upstream.replies["/api/chat"] = late
    # A refusal closes the connection, so exactly one of these is answered.
    refused = b"GET /unknown HTTP/1.1\r\nHost: a\r\n\r\n"
    home.sent += 1
    with closing(home.connect({"model": MODEL})) as sock:
        assert eventually(lambda: home.upstream.got("/api/chat"))
        sock.settimeout(1)
        sent = 0
        with suppress(TimeoutError):
            while sent < 50_000_000:
                sent += sock.send(refused * 10_000)
        assert sent < 50_000_000
        [connection] = home.gateway.server.connections
        assert len(connection._messages) <= 1
        all_sent.set()
        answered(sock)
    assert home.outcomes() == {"ok": 1, "refused": 1}


def test_refusals_are_logged_once_a_second(home: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.monotonic()
    for n in range(200):
        assert home.ask(f"/{n}" + "x" * 3000).status == 404
    took = time.monotonic() - begin

    logged = [line for line in capsys.readouterr().out.splitlines() if "refused with" in line]
    assert 1 <= len(logged) <= 2 + took
    assert max(map(len, logged)) < 300
    assert home.outcomes() == {"refused": 200}


# Shutdown


def test_an_incomplete_body_does_not_delay_the_shutdown() -> None:
    upstream = scripted_ollama()
    with (
        program(upstream, GATEWAY_GRACE_SECONDS="600", GATEWAY_CLIENT_SECONDS="600") as (own, port),
        socket.create_connection(("127.0.0.1", port), 5) as body,
        socket.create_connection(("127.0.0.1", port), 5) as start,
    ):
        body.sendall(f"{POST}Content-Length: 9\r\n\r\n".encode() + b"abc")
        start.sendall(b"GET / HT")
        own.send_signal(signal.SIGTERM)
        assert answered(body)[:13] in (b"HTTP/1.1 408 ", b"")
        assert own.wait(60) == 0
    upstream.close()


def test_a_body_that_times_out_at_the_shutdown_does_not_fail_it() -> None:
    with lab() as home, closing(opened(home, LATE["no body"][0])) as body:
        home.sent += 1
        assert eventually(lambda: home.gateway.reading)

        async def stop() -> None:
            [timeout] = home.gateway.reading
            timeout.reschedule(home.loop.time())
            await asyncio.sleep(0)  # it expires in this turn, and its task runs in the next
            assert timeout.expired()
            await home.gateway.stop()

        home.run(stop())
        assert answered(body)[:13] in (b"HTTP/1.1 408 ", b"")


# Invalid HTTP


@pytest.mark.parametrize("version", ["0.9", "2.0", "1.2"])
def test_other_versions_are_refused(home: Lab, version: str) -> None:
    got = home.raw(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())

    assert b" 400 " in got[:13]
    assert home.outcomes() == {"bad_request": 1}


def test_a_request_pipelined_after_an_upgrade_does_not_hang(home: Lab) -> None:
    it = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert home.raw(it * 2).count(b"Ollama is running") >= 1


def test_the_server_header_has_no_version(home: Lab) -> None:
    assert home.ask("/").headers["Server"] == home.ask("/x").headers["Server"] == "gateway"


@pytest.mark.parametrize("status", ["101 Odd", "600 Odd"])
def test_an_invalid_status_counts_as_upstream_error(home: Lab, status: str) -> None:
    home.upstream.replies["/api/chat"] = whole({"done": True}, status)
    home.ask("/api/chat", {"model": MODEL})
    assert home.outcomes() == {"upstream_error": 1}
