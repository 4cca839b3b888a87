"""The gateway's poll and push: no response stops them, and each result is logged once."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from gateway_lab import (
    LOADED,
    MODELS,
    Lab,
    lab,
    program,
    scripted_ollama,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import (
    Connection,
    Reply,
    head,
    whole,
)
from waiting import eventually

HUGE = 10**400
ODD: dict[str, Reply] = {
    "no JSON": whole(b"<html>"),
    "no object": whole([]),
    "nothing": whole(b"null"),
    "a huge number": whole(b'{"models":[{"name":"x","size":%d}],"version":"1"}' % HUGE),
    "a number not to be read": whole(b'{"models":[{"size":%s}]}' % (b"1" * 5000)),
    "wrong types": whole({"models": [{"name": [], "size": {}, "size_vram": None}]}),
    "models that are none": whole({"models": [None, 1, "x"], "version": {}}),
    "deep": whole(b"[" * 100_000),
    "no UTF-8": whole(b'{"version":"\xff","models":[{"name":"\xff"}]}'),
    "a surrogate": whole(b'{"version":"\\ud800","models":[{"name":"\\ud800","size":1}]}'),
    "too long": whole(b'{"version":"' + b"x" * 5_000_000 + b'"}'),
    "an error": whole({"error": "x"}, "500 Internal Server Error"),
    "an odd status": whole({}, "299 Odd"),
    "a redirection": lambda to: to.send(b"HTTP/1.1 302 F\r\nLocation: http://[\r\n\r\n"),
    "no HTTP": lambda to: to.send(b"\x00\x01\r\n\r\n"),
    "cut": lambda to: to.send(head(length=100) + b"{"),
    "closed": lambda to: to.sock.close(),
    "gzip that is none": lambda to: to.send(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
    ),
    "an expiry that is none": whole({"models": [LOADED | {"expires_at": [HUGE]}]}),
}
ROUTES = ("/api/tags", "/api/ps", "/api/version")


@pytest.fixture(scope="module")
def home() -> Iterator[Lab]:
    with lab(poll_seconds=0.02) as home:
        yield home


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_no_response_stops_the_poll_and_each_result_is_logged_once(
    home: Lab, odd: Reply, route: str, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream, right = home.upstream, home.upstream.replies[route]
    upstream.replies[route] = odd
    try:
        before = len(upstream.got(route))
        assert eventually(lambda: len(upstream.got(route)) >= before + 5)
    finally:
        upstream.replies[route] = right
    before = len(upstream.got(route))
    assert eventually(lambda: len(upstream.got(route)) >= before + 3)
    # All is as it was.
    assert eventually(lambda: home.gateway.poller.values["ollama.up"] == {"": 1})
    assert eventually(lambda: len(home.gateway.poller.values["ollama.model.loaded.size"]) == 1)
    assert eventually(lambda: len(home.gateway.poller.values["ollama.model.size"]) == 2)
    assert home.metric("ollama.up")
    logged = [line for line in capsys.readouterr().out.splitlines() if f"poll of {route}" in line]
    assert len([line for line in logged if "success" not in line]) <= 1
    assert max(map(len, logged), default=0) < 100


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["models", "version", "name", "size"]), inner)
        ),
        max_leaves=8,
    )
)
@settings(max_examples=25, deadline=None)
def test_the_poller_survives_any_json(home: Lab, value: Any) -> None:
    right = dict(home.upstream.replies)
    home.upstream.replies |= dict.fromkeys(ROUTES, whole(value))
    home.run(home.gateway.poller.poll())
    home.upstream.replies |= right
    home.run(home.gateway.poller.poll())
    assert home.gateway.poller.values["ollama.up"] == {"": 1}


# The push


ANSWERS = {
    "500": b"HTTP/1.1 500 Oh\r\n\r\n",
    "503 with a time": b"HTTP/1.1 503 Oh\r\nRetry-After: 100000\r\n\r\n",
    "a redirection": b"HTTP/1.1 307 T\r\nLocation: http://[\r\n\r\n",
    "no HTTP": b"\x00\x01\x02\r\n\r\n",
    "nothing": b"",
    "an odd status": b"HTTP/1.1 999 Oh\r\n\r\n",
    "a body without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
}


def test_no_response_stops_the_push_and_each_result_is_logged_once() -> None:
    upstream = scripted_ollama()
    answers = iter([answer for answer in ANSWERS.values() for _ in range(3)])
    upstream.replies["/push"] = lambda to: to.send(next(answers, b"HTTP/1.1 200 OK\r\n\r\n"))
    url = f"http://127.0.0.1:{upstream.port}/push"
    with program(upstream, GATEWAY_OTLP_URL=url, GATEWAY_PUSH_SECONDS="0.05") as (process, _):
        assert eventually(lambda: len(upstream.got("/push")) > 3 * len(ANSWERS) + 3)
        process.terminate()
        assert process.stdout
        logged = [line for line in process.stdout if line.startswith("push of metrics: ")]
    # Some of the odd ones are success: only the status is read.
    assert logged[-1] == "push of metrics: success\n"
    assert len(logged) <= 2 * len(ANSWERS)
    assert [a for a, b in pairwise(logged) if a == b] == []
    upstream.close()


def test_a_push_to_a_receiver_that_sends_byte_by_byte_times_out() -> None:
    """Each byte is in time, the response is not."""
    upstream, stop = scripted_ollama(), threading.Event()

    def drip(to: Connection) -> None:
        to.send(b"HTTP/1.1 200 OK\r\nX: ")
        with suppress(OSError):
            while not stop.wait(0.2):
                to.send(b"a")

    upstream.replies["/push"] = drip
    url = f"http://127.0.0.1:{upstream.port}/push"
    with program(upstream, GATEWAY_OTLP_URL=url, GATEWAY_PUSH_SECONDS="0.1") as (process, _):
        assert eventually(lambda: len(upstream.got("/push")) >= 2)
        process.kill()
    stop.set()
    upstream.close()


@pytest.mark.parametrize("count", [HUGE, 10**30, 2**63, -1])
def test_huge_counts_are_clamped(count: int) -> None:
    with lab() as home:
        final = {"done": True, "eval_count": count, "eval_duration": count, "prompt_eval_count": 1}
        home.upstream.replies["/api/chat"] = whole(final)
        home.ask("/api/chat", {"model": MODELS[0]["name"]})
        home.outcomes()
        points = home.metric("gen_ai.client.token.usage")
        assert points
        assert all(0 < point.value.sum <= 2**54 for point in points)
        assert json.dumps([point.value.sum for point in points])
