"""The gateway: what it relays, refuses and measures."""

import json
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from gateway_lab import (
    BANDWIDTH,
    KEY,
    MANAGES,
    SIZE,
    TOKEN,
    Lab,
    ask,
    lab,
    program,
    scripted_ollama,
)
from gateway_poller import STALE, seconds_until
from gateway_settings import Settings
from gateway_stream import StreamParser
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from scripted import (
    Connection,
    Reply,
    ScriptedServer,
    chunk,
    head,
    lines,
    stream,
    whole,
)
from waiting import eventually

MODEL = "llama3.2:3b"
PUSH = "/api/v1/otlp/v1/metrics"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


def say(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "created_at": "2026-09-17T08:00:00.1Z",
        "message": {"role": "assistant", "content": text} | more,
        "done": False,
    }


# The last line as recorded on 0.33.3, with other numbers.
FINAL = say("") | {
    "done": True,
    "done_reason": "stop",
    "total_duration": 7_000_000_000,
    "load_duration": 3_000_000_000,
    "prompt_eval_count": 120,
    "prompt_eval_cached_count": 20,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 40,
    "eval_duration": 2_000_000_000,
}
RECORDED = [say("Hé"), say("llo"), FINAL]


@pytest.fixture
def home() -> Iterator[Lab]:
    with lab() as home:
        yield home


# What is passed on


@given(
    body=st.binary(max_size=300) | st.just(lines(*RECORDED)),
    cuts=st.lists(st.integers(0, 500), max_size=12),
    length=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_response_is_relayed_byte_for_byte_however_it_is_split(
    shared_home: Lab, body: bytes, cuts: list[int], length: bool
) -> None:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in pairwise(edges) if a < b]

    def with_length(to: Connection) -> None:
        to.send(head(length=len(body)))
        for piece in pieces:
            to.send(piece)

    shared_home.upstream.replies["/api/chat"] = with_length if length else stream(*pieces)

    answer = shared_home.ask("/api/chat", body, MANAGES)

    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert shared_home.upstream.got("/api/chat")[-1].body == body


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Lab]:
    with lab() as home:
        yield home


def test_each_chunk_is_relayed_before_the_next_exists(home: Lab) -> None:
    next_one = threading.Event()

    def reply(to: Connection) -> None:
        to.send(head())
        for event in RECORDED:
            to.send(chunk(lines(event)))
            assert next_one.wait(5)
            next_one.clear()
        to.send(b"0\r\n\r\n")

    home.upstream.replies["/api/chat"] = reply
    with closing(home.connect(CHAT)) as client:
        got = b""
        for event in RECORDED:
            while lines(event) not in got:
                got += client.recv(4096)
            next_one.set()
        while not got.endswith(b"0\r\n\r\n"):
            got += client.recv(4096)


def test_head_query_and_headers_reach_ollama(home: Lab) -> None:
    hop = {"Connection": "X-Mine", "X-Mine": "1", "TE": "trailers", "Keep-Alive": "5"}
    home.ask("/api/tags?a=%2F&b", headers=hop | {"X-Kept": "2", "Origin": "http://here"})
    answer = home.ask("/", how="HEAD")

    sent = home.upstream.got("/api/tags?a=%2F&b")[0].head.decode()
    assert "X-Kept: 2\r\n" in sent
    assert "Origin: http://here\r\n" in sent
    assert f"Host: 127.0.0.1:{home.upstream.port}\r\n" in sent  # Ollama checks it on loopback
    assert [name for name in ("X-Mine", "TE:", "Keep-Alive") if name in sent] == []
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "17")


def test_a_chunked_request_reaches_ollama_complete(home: Lab) -> None:
    home.upstream.replies["/api/chat"] = whole(FINAL)
    start = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
    body = chunk(b'{"model":') + chunk(b'"llama3.2:3b"}') + b"0\r\n\r\n"

    got = home.raw(start + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert home.upstream.got("/api/chat")[0].body == b'{"model":"llama3.2:3b"}'


def test_a_line_of_10_mb_is_relayed(home: Lab) -> None:
    long = lines(say("x" * 10_000_000))
    home.upstream.replies["/api/chat"] = stream(long[:5_000_000], long[5_000_000:], lines(FINAL))

    answer = home.ask("/api/chat", CHAT)

    assert answer.body == long + lines(FINAL)
    assert tokens(home) == {"input": 120, "output": 40}


def test_invalid_utf8_is_relayed(home: Lab) -> None:
    odd = b'{"message":{"content":"\xff\xfe"}}\n\x80\n[1]\n{"error":\n' + lines(FINAL)
    home.upstream.replies["/api/chat"] = stream(odd)

    assert home.ask("/api/chat", b'{"model": "\xff"}').body == odd
    assert home.outcomes() == {"ok": 1}
    assert json.loads(home.upstream.got("/api/chat")[0].body) == {"model": "\ufffd"}  # as Go


def test_a_slow_client_gets_everything_by_backpressure(home: Lab) -> None:
    line, count, sent = lines(say("x" * 60_000)), 400, [0]

    def reply(to: Connection) -> None:
        to.send(head())
        for _ in range(count):
            to.send(chunk(line))
            sent[0] += 1
        to.send(b"0\r\n\r\n")

    home.upstream.replies["/api/chat"] = reply
    with closing(home.connect(CHAT)) as client:
        time.sleep(0.5)
        assert sent[0] < count  # 24 MB are not kept in memory
        got = b""
        while not got.endswith(b"\r\n0\r\n\r\n"):
            got = got[-10:] + client.recv(1 << 20)
    assert home.outcomes() == {"ok": 1}


# What goes wrong


def test_a_client_that_disconnects_ends_the_request_to_ollama(home: Lab) -> None:
    left: list[bool] = []

    def mid_answer(to: Connection) -> None:
        to.send(head() + chunk(lines(RECORDED[0])))
        left.append(to.wait_closed())

    home.upstream.replies["/api/chat"] = mid_answer
    home.upstream.replies["/api/generate"] = lambda to: left.append(to.wait_closed())
    for path in ("/api/chat", "/api/generate"):
        with closing(home.connect(CHAT, path)) as client:
            if path == "/api/chat":
                client.recv(10)
            assert eventually(partial(home.upstream.got, path))
            time.sleep(0.05)
        assert eventually(lambda: left)
        assert left.pop()

    assert home.outcomes() == {"client_cancel": 2}


@pytest.mark.parametrize("length", [-1, 1000])
def test_a_truncated_response_is_truncated_for_the_client(home: Lab, length: int) -> None:
    part = lines(RECORDED[0]) + b'{"model":"llama'
    home.upstream.replies["/api/chat"] = lambda to: to.send(
        head(length=length) + (part if length > 0 else chunk(part))
    )

    answer = home.ask("/api/chat", CHAT)

    assert (answer.body, answer.whole) == (part, False)
    assert home.outcomes() == {"upstream_error": 1}


@pytest.mark.parametrize(
    ("reply", "status", "outcome"),
    [
        (whole({"error": "server busy, please try again"}, "503 Service Unavailable"), 503, "busy"),
        (whole({"error": "model 'x' not found"}, "404 Not Found"), 404, "not_found"),
        (whole({"error": "invalid"}, "400 Bad Request"), 400, "bad_request"),
        (whole({"error": "boom"}, "500 Internal Server Error"), 500, "upstream_error"),
        (stream(lines(RECORDED[0], {"error": "an error was encountered"})), 200, "in_stream_error"),
        (stream(lines(say('{"error":"no"}'), say("error"), FINAL)), 200, "ok"),
        (lambda to: to.sock.close(), 502, "upstream_error"),
        (lambda to: to.send(b"not http\r\n\r\n"), 502, "upstream_error"),
    ],
)
def test_every_outcome_is_counted(home: Lab, reply: Reply, status: int, outcome: str) -> None:
    home.upstream.replies["/api/chat"] = reply

    assert home.ask("/api/chat", CHAT).status == status
    assert home.outcomes() == {outcome: 1}
    [duration] = home.metric("gen_ai.server.request.duration")
    assert duration.labels.get("error.type", "ok") == outcome


def test_without_ollama_the_error_has_the_format_of_the_api(home: Lab) -> None:
    home.upstream.close()

    assert home.ask("/").status == 502
    assert json.loads(home.ask("/api/chat", CHAT).body) == {"error": "Ollama does not answer"}
    assert home.outcomes() == {"upstream_error": 2}


# What is refused

SMUGGLED = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a bare line feed": b"X: a\nContent-Length: 4\r\n\r\nabcd",
    "a long header": b"X: " + b"a" * 20_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("attempt", SMUGGLED.values(), ids=SMUGGLED)
def test_an_ambiguous_request_is_refused(shared_home: Lab, attempt: bytes) -> None:
    before = shared_home.outcomes().get("bad_request", 0)

    got = shared_home.raw(b"POST /api/embed HTTP/1.1\r\nHost: a\r\n" + attempt)

    assert re.match(rb"HTTP/1.[01] 4(00|31) ", got)
    assert got.count(b"HTTP/1.") == 1
    assert shared_home.outcomes()["bad_request"] == before + 1
    assert shared_home.upstream.got("/api/embed") == []


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/api/me", "/api/signout", "/api/chat/", "//api/pull", "/API/pull"),
        *("/api/../api/pull", "/api%2Fpull", "/api/pull;x", "/api/blobs/../pull", "/v1/models"),
        *("/api/blobs/sha256:zz", "http://x/api/pull", "/api/experimental/web_search"),
    ],
)
def test_an_unknown_path_is_refused(shared_home: Lab, path: str) -> None:
    before = shared_home.outcomes().get("refused", 0)

    with_token = {"Authorization": f"Bearer {TOKEN}"}
    answer = shared_home.ask(path, b'{"model":"x"}', with_token)

    assert answer.status == 404
    assert shared_home.outcomes()["refused"] == before + 1
    assert shared_home.upstream.got(path) == []


BLOB = "/api/blobs/sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("how", "path"),
    [
        *(("POST", "/api/pull"), ("POST", "/api/create"), ("POST", "/api/push")),
        *(("POST", "/api/copy"), ("DELETE", "/api/delete"), ("POST", BLOB), ("HEAD", BLOB)),
    ],
)
def test_only_the_token_manages_models(
    home: Lab, how: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home.upstream.replies[path] = whole({"status": "success"})
    wrong = "a-wrong-token"
    credentials = [None, "", f"Bearer {wrong}", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]

    refused = [
        home.ask(path, b"{}", {"Authorization": it} if it is not None else {}, how=how).status
        for it in credentials
    ]
    assert refused == [401] * len(credentials)
    assert home.upstream.got(path) == []
    assert home.ask(path, b"{}", {"Authorization": f"Bearer {TOKEN}"}, how=how).status == 200

    assert home.outcomes() == {"refused": len(credentials), "ok": 1}
    [passed] = home.upstream.got(path)
    assert passed.body == b"{}"
    assert b"uthorization" not in passed.head
    printed = capsys.readouterr().out
    assert "refused with 401" in printed
    assert wrong not in printed
    assert TOKEN not in printed


def test_without_a_configured_token_nobody_manages_models() -> None:
    with lab(manage_token="") as home:
        for credential in ("Bearer ", "Bearer", "Bearer x"):
            headers = {"Authorization": credential}
            assert home.ask("/api/pull", b"{}", headers).status == 403
        assert home.ask("/api/chat", CHAT, how="DELETE").status == 405
        assert home.outcomes() == {"refused": 4}


def test_bodies_are_bounded() -> None:
    with lab(body_bytes=1000, blob_bytes=2000) as home:
        assert home.ask("/api/chat", b"x" * 1001).status == 413
        start = b"POST /api/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert b" 413 " in home.raw(start + chunk(b"x" * 1001) + b"0\r\n\r\n")[:20]

        blob, token = "/api/blobs/sha256:" + "0a" * 32, f"Authorization: Bearer {TOKEN}\r\n"
        home.upstream.replies[blob] = whole(b"")
        assert home.ask(blob, b"x" * 2000, {"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert home.upstream.got(blob)[0].body == b"x" * 2000
        put = f"POST {blob} HTTP/1.1\r\nHost: a\r\n{token}Transfer-Encoding: chunked\r\n\r\n"
        assert b" 4" in home.raw(put.encode() + chunk(b"x" * 2001) + b"0\r\n\r\n")[:20]
        assert home.outcomes() == {"bad_request": 3, "ok": 1}


# What is measured


def tokens(home: Lab) -> dict[str, int]:
    """Return the sum of tokens by type, once all requests are counted."""
    home.outcomes()
    points = home.metric("gen_ai.client.token.usage")
    return {point.labels["gen_ai.token.type"]: point.value.sum for point in points}


def sums(home: Lab, name: str) -> list[float]:
    return [round(point.value.sum, 6) for point in home.metric(name)]


def test_lines_are_parsed_wherever_they_are_split() -> None:
    raw, wrong = lines(*RECORDED), []
    for cut in range(len(raw) + 1):
        parser = StreamParser(10_000)
        parser.feed(raw[:cut])
        parser.feed(raw[cut:])
        parser.end()
        if parser.first is None or parser.error or parser.final.get("eval_count") != 40:
            wrong.append(cut)
    assert wrong == []


def test_of_a_long_line_only_the_end_is_parsed() -> None:
    parser = StreamParser(5000)
    parser.feed(b'{"embeddings":[[')
    for _ in range(1000):
        parser.feed(b"0.125," * 100)
        assert len(parser.part) <= 5000
    parser.feed(b'0]],"total_duration":9,"prompt_eval_count":7}\n')
    assert parser.final == {"total_duration": 9, "prompt_eval_count": 7}
    parser.feed(lines(FINAL))
    assert parser.final["eval_count"] == 40


def test_an_answer_is_measured(home: Lab) -> None:
    thinking = say("", thinking="hm")
    home.upstream.replies["/api/chat"] = stream(
        lines(say("")), lines(thinking), lines(FINAL), pause=0.5
    )

    begin = time.monotonic()
    home.ask("/api/chat", CHAT)
    took = time.monotonic() - begin

    assert tokens(home) == {"input": 120, "output": 40}
    assert sums(home, "gen_ai.server.time_per_output_token") == [0.05]
    assert sums(home, "ollama.load.duration") == [3]
    assert sums(home, "ollama.queue.duration") == [1.5]
    assert sums(home, "ollama.prefill.tokens") == [200]  # the 20 from the cache are not read
    [first] = home.metric("gen_ai.server.time_to_first_token")
    # One pause came before the first token, two after it.
    assert 0.5 <= first.value.sum < took - 0.5
    assert first.labels == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": MODEL,
    }
    [duration] = home.metric("gen_ai.server.request.duration")
    # In seconds; it ends after the client has all.
    assert 1.5 <= duration.value.sum < 150
    assert duration.value.explicit_bounds[-1] == 600
    [per_token] = home.metric("gen_ai.server.time_per_output_token")
    bounds = per_token.value.explicit_bounds
    assert sum(1 / 60 <= bound <= 1 / 5 for bound in bounds) >= 10


SPOKEN = [lines(say("")), lines(say("Hé")), lines(say("", thinking="hm")), lines(say("o"))]


def test_a_cancelled_response_counts_its_lines_with_output(home: Lab) -> None:
    def reply(to: Connection) -> None:
        to.send(head() + b"".join(map(chunk, SPOKEN)))
        to.wait_closed()

    home.upstream.replies["/api/chat"] = reply
    with closing(home.connect(CHAT)) as client:
        got = b""
        while SPOKEN[-1] not in got:
            got += client.recv(4096)

    assert home.outcomes() == {"client_cancel": 1}
    assert tokens(home) == {"output": 3}


def test_tokens_of_a_long_answer_are_counted(home: Lab) -> None:
    counts = {"total_duration": 5, "prompt_eval_count": 4000}
    home.upstream.replies["/api/embed"] = whole({"embeddings": [[0.12345678] * 200_000]} | counts)

    home.ask("/api/embed", CHAT)

    assert tokens(home) == {"input": 4000}


@pytest.mark.parametrize(
    ("path", "body", "streams"),
    [
        ("/api/chat", {}, True),
        ("/api/chat", {"stream": False}, False),
        ("/api/generate", {}, True),
        ("/api/embed", {}, False),
    ],
)
def test_a_missing_stream_key_is_the_default_of_the_route(
    home: Lab, path: str, body: dict[str, Any], streams: bool
) -> None:
    home.upstream.replies[path] = stream(lines(*RECORDED))

    home.ask(path, CHAT | body)

    assert home.outcomes() == {"ok": 1}
    assert bool(home.metric("gen_ai.server.time_to_first_token")) == streams


@pytest.mark.parametrize(
    ("changes", "loads", "prefill"),
    [
        ({"load_duration": 40_000_000}, [], [200.0]),  # it was in memory already
        ({"load_duration": 0}, [], [200.0]),
        ({"prompt_eval_cached_count": 120}, [3.0], []),
        ({"prompt_eval_cached_count": None}, [3.0], [240.0]),
        # Before 0.33: ten times what this memory allows must have come from the cache.
        ({"prompt_eval_cached_count": None, "prompt_eval_duration": 5_000_000}, [3.0], []),
        ({"prompt_eval_duration": 0}, [3.0], []),
    ],
)
def test_phases_without_a_duration_are_not_recorded(
    home: Lab, changes: dict[str, Any], loads: list[float], prefill: list[float]
) -> None:
    final = {key: value for key, value in (FINAL | changes).items() if value is not None}
    home.upstream.replies["/api/chat"] = whole(final)

    home.ask("/api/chat", CHAT)

    assert home.outcomes() == {"ok": 1}
    assert (sums(home, "ollama.load.duration"), sums(home, "ollama.prefill.tokens")) == (
        loads,
        prefill,
    )


def test_only_known_models_become_labels(home: Lab) -> None:
    home.upstream.replies["/api/chat"] = whole(FINAL)
    names = [MODEL, "codellama", "CodeLlama:latest", "library/llama3.2:3b", "x1", "x2", "", 7, None]

    for name in names:
        home.ask("/api/chat", {"model": name})

    assert home.outcomes() == {"ok": 9}
    points = home.metric("ollama.requests")
    assert {it.labels["gen_ai.request.model"]: it.value for it in points} == {
        MODEL: 2,
        "codellama:latest": 2,
        "other": 5,
    }


def test_requests_in_flight_wait_and_then_answer(home: Lab) -> None:
    go = threading.Event()

    def reply(to: Connection) -> None:
        assert go.wait(5)
        go.clear()
        to.send(head() + chunk(lines(RECORDED[0])))
        assert go.wait(5)
        to.send(b"0\r\n\r\n")

    def flying() -> dict[str, int]:
        points = home.metric("ollama.requests.in_flight")
        return {it.labels["ollama.phase"]: it.value for it in points if it.value}

    home.upstream.replies["/api/chat"] = reply
    with closing(home.connect(CHAT)) as client:
        assert eventually(lambda: flying() == {"waiting": 1})
        go.set()
        client.recv(1)
        assert eventually(lambda: flying() == {"answering": 1})
        go.set()
        assert eventually(lambda: flying() == {})


def test_silence_is_the_time_since_a_requested_model_had_output(home: Lab) -> None:
    """What a full queue answers is no word of the model's."""
    go = threading.Event()

    def hangs(to: Connection) -> None:
        assert go.wait(10)
        to.send(head() + chunk(lines(RECORDED[0])))
        to.wait_closed()

    def silence() -> float:
        return max((float(it.value) for it in home.metric("ollama.model.silence")), default=0)

    def heard_after(moment: float) -> bool:
        return time.monotonic() - silence() > moment and silence() > 0

    home.upstream.replies |= {"/api/chat": hangs, "/api/embed": whole({}, "503 Busy")}
    with closing(home.connect(CHAT)) as client:
        assert eventually(lambda: silence() > 0.3)
        began = time.monotonic()
        assert home.ask("/api/embed", CHAT).status == 503
        assert eventually(lambda: silence() > time.monotonic() - began)
        asked = time.monotonic()
        go.set()
        client.recv(1)
        assert eventually(lambda: heard_after(asked))
    assert eventually(lambda: silence() == 0)


def test_the_poller_reports_models_and_drops_them_when_ollama_is_down(home: Lab) -> None:
    def value(name: str) -> float:
        [point] = home.metric(name)
        return float(point.value)

    assert eventually(lambda: home.gateway.poller.values["ollama.up"] == {"": 1.0})
    assert value("ollama.model.loaded.size") == 3_227_894_413
    assert value("ollama.model.loaded.gpu.size") == 0
    assert value("ollama.model.expires_in") == 7 * 86400
    ceilings = home.metric("ollama.ceiling.tokens")
    assert {it.value for it in ceilings} == {BANDWIDTH / SIZE}

    home.upstream.close()
    assert eventually(lambda: home.gateway.poller.values["ollama.up"] == {"": 0.0})
    gone = [it.value for it in home.metric("ollama.model.loaded.size")]
    assert [struct.pack("<d", it) for it in gone] == [struct.pack("<Q", 0x7FF0000000000002)]
    # Once more until a push has arrived.
    assert len(home.metric("ollama.model.loaded.size")) == 1
    home.gateway.poller.mark_pushed()
    assert home.metric("ollama.model.loaded.size") == []
    assert home.gateway.poller.known  # a label does not change because Ollama is away


def test_a_mixture_of_experts_reads_less_than_its_file() -> None:
    with lab(read_bytes="codellama=1e9") as home:
        points = home.metric("ollama.ceiling.tokens")
        assert {it.labels["gen_ai.request.model"]: it.value for it in points} == {
            MODEL: 40,
            "codellama:latest": 80,
        }


def test_an_expiry_is_clamped() -> None:
    assert seconds_until("2001-01-01T00:00:00Z") == 0
    assert seconds_until("22826-01-01T00:00:00Z") == seconds_until(None) == 7 * 86400


def test_users_have_pseudonyms_and_a_cap() -> None:
    header = "X-OpenWebUI-User-Id"
    with lab(user_label="on", user_key=KEY, user_cap=2) as home:
        home.upstream.replies["/api/chat"] = whole(FINAL)
        for who in ("anna", "bert", "anna", "carl", "dora"):
            home.ask("/api/chat", CHAT, {header: who})
        home.ask("/api/chat", CHAT)
        home.outcomes()

        points = home.metric("gen_ai.client.token.usage")
        output = [it for it in points if it.labels["gen_ai.token.type"] == "output"]
        counts = {it.labels["ollama.user"]: it.value.sum for it in output}
        assert sorted(counts.values()) == [40, 40, 80, 80]
        assert (counts.pop("other"), counts.pop("none")) == (80, 40)
        assert [who for who in counts if not re.fullmatch("[0-9a-f]{8}", who)] == []


def test_no_user_is_recorded_by_default(home: Lab) -> None:
    home.upstream.replies["/api/chat"] = whole(FINAL)
    home.ask("/api/chat", CHAT, {"X-OpenWebUI-User-Id": "anna"})
    home.outcomes()
    names = ("gen_ai.client.token.usage", "ollama.requests")
    points = [point for name in names for point in home.metric(name)]
    assert [point for point in points if "ollama.user" in point.labels] == []


# The settings


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GATEWAY_BANDWITH", "1"),
        ("GATEWAY_BANDWIDTH", "fast"),
        ("GATEWAY_READ_BYTES", "a=b"),
    ],
)
def test_an_invalid_setting_is_named(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"GATEWAY_\w+: "):
        Settings.parse({variable: text})


def test_secrets_are_not_in_the_text_of_the_settings() -> None:
    assert TOKEN not in repr(Settings(manage_token=TOKEN, user_key=TOKEN))


# The program as the pod runs it


def accepts(port: int) -> bool:
    """Say whether somebody listens on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("grace", ["60", "0.3"])
def test_sigterm_lets_answers_finish_within_the_grace(grace: str) -> None:
    upstream, body = scripted_ollama(), json.dumps(CHAT).encode()
    upstream.replies["/api/chat"] = stream(*map(lines, RECORDED), pause=0.4)
    with program(upstream, GATEWAY_GRACE_SECONDS=grace) as (process, port):
        with (
            socket.create_connection(("127.0.0.1", port), 5),  # idle: must not hold it up
            socket.create_connection(("127.0.0.1", port), 5) as client,
        ):
            start = f"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(start.encode() + body)
            got, begin = client.recv(10), time.monotonic()
            process.send_signal(signal.SIGTERM)
            # Before the answer's end: two pauses are still to come.
            while accepts(port) and time.monotonic() < begin + 0.7:
                time.sleep(0.02)
            assert not accepts(port)
            try:
                got += b"".join(iter(lambda: client.recv(4096), b""))
            except ConnectionResetError:
                got += b" reset"
        assert process.wait(30) == 0  # an idle client that held it up would take all 60
        assert got.endswith(b"0\r\n\r\n") == (grace == "60")
    upstream.close()


def pushed(upstream: ScriptedServer) -> list[Any]:
    """Return the metrics of each push, with their resource."""
    return [
        ExportMetricsServiceRequest.FromString(push.body).resource_metrics[0]
        for push in upstream.got(PUSH)
    ]


def points(push: Any, name: str) -> list[Any]:
    """Return the points of an instrument in a push."""
    return [
        point
        for scope in push.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in (*metric.sum.data_points, *metric.gauge.data_points)
    ]


def test_the_last_push_is_complete_and_marks_the_gauges_as_stale() -> None:
    upstream, stale = scripted_ollama(), struct.pack("<d", STALE)
    upstream.replies |= {"/api/chat": stream(lines(*RECORDED)), PUSH: whole({})}
    url = f"http://127.0.0.1:{upstream.port}{PUSH}"

    def sizes(push: Any) -> list[bytes]:
        """Return a gauge as it is written: a NaN differs from itself."""
        loaded = points(push, "ollama.model.loaded.size")
        return [struct.pack("<d", point.as_double) for point in loaded]

    with program(upstream, GATEWAY_OTLP_URL=url, GATEWAY_PUSH_SECONDS="0.2") as (process, port):
        assert eventually(lambda: any(map(sizes, pushed(upstream))))
        assert stale not in [size for push in pushed(upstream) for size in sizes(push)]
        ask(port, "/api/chat", CHAT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    last = pushed(upstream)[-1]
    assert sizes(last) == [stale]
    assert [point.as_int for point in points(last, "ollama.requests")] == [1]
    named = {it.key: it.value.string_value for it in last.resource.attributes}
    assert named["service.name"] == "ollama-gateway"
    assert named["service.instance.id"] == "ollama"
    upstream.close()


def test_a_receiver_that_hangs_or_is_down_delays_no_request() -> None:
    upstream = scripted_ollama()
    upstream.replies["/api/chat"] = stream(lines(*RECORDED))
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # accepts, never answers
        for port_of_receiver in (hanging.getsockname()[1], 1):
            url = f"http://127.0.0.1:{port_of_receiver}/"
            with program(upstream, GATEWAY_OTLP_URL=url) as (_, port):
                took = []
                for _ in range(30):
                    begin = time.monotonic()
                    assert ask(port, "/api/chat", CHAT).status == 200
                    took.append(time.monotonic() - begin)
                    time.sleep(0.02)
                # The exporter waits 5 s for an answer.
                assert median(took) < 4
    upstream.close()


def test_prompts_and_answers_are_never_printed(
    home: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    home.upstream.replies["/api/chat"] = lambda to: to.send(head() + b"broken SECRET")
    home.ask("/api/chat", CHAT | {"prompt": "SECRET"})
    home.raw(b"POST /api/chat HTTP/1.1\r\nHost: a\r\nX SECRET\r\n\r\nSECRET")
    home.ask("/unknown?prompt=SECRET")
    home.outcomes()
    assert "SECRET" not in "".join(capsys.readouterr())
