"""Bodies of requests: what reaches Ollama, and that none fills the memory or blocks the loop."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from gateway_bodies import DROPPED, MOST_TOKENS, SMALL_TEXT, TOKEN, Body, Budget
from gateway_lab import (
    MANAGES,
    MODELS,
    Answer,
    Lab,
    ask,
    lab,
    limits,
    picture,
    program,
    scripted_ollama,
)
from gateway_pictures import MOST_PICTURES
from gateway_routes import ROUTES
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import (
    Connection,
    ScriptedServer,
    chunk,
    head,
    lines,
    whole,
)
from waiting import eventually

MODEL = str(MODELS[0]["name"])
PAGE = b"aBcD+/09" * 36  # a piece of a picture, just not long enough to be left out
# What begins the value, what fills it, and what ends it.
ATTACKS = {
    "lists": (b"[", b"[],", b"0]}"),
    "objects": (b"[", b"{},", b"0]}"),
    "numbers": (b"[", b"1.5,", b"0]}"),
    "keys": (b"{", b'"%07d":1,', b'"":0}}'),
    "strings": (b"[", b'"",', b'""]}'),
}
ODD = {
    "depth": (b"", b"[", b""),
    "spaces": (b"", b" ", b"0}"),
    "digits": (b"", b"1", b"}"),
    "fraction": (b"0.", b"1", b"}"),
    "colons": (b"", b":", b"}"),
    "quotes": (b"", b'"', b"}"),
    "picture": (b'{"images":["%s' % picture("png", 9, 9).encode(), b"aBcD", b'"]}}'),
    "picture without a size": (b'{"images":["/9j/', b"/wD/", b'"]}}'),
    "picture with an escape": (rb'{"images":["\u002F9j/', b"aBcD", b'"]}}'),
    "text": (b'"', b"aBcD", b'"}'),
    "text with an emoji": ('"😀'.encode(), b"aBcD", b'"}'),
    "line feeds": (b'"', rb"\n", b'"}'),
    "escaped quotes": (b'"', rb"\"", b'"}'),
    "escaped backslashes": (b'"', rb"\\", b'"}'),
    "table with an emoji": ('"😀'.encode(), rb"1,2.5,\"a\"\n", b'"}'),
    "no end": (b'"', rb"\"", b""),
    "no end but a backslash": (b'"', b"a", b"\\"),
    "as much as is read": (
        b"[" + b'"\xf0\x9f\x98\x80%s",' % PAGE * (MOST_TOKENS // 3) + b'"',
        b"aBcD",
        b'"]}',
    ),
}
CASES = [
    *((kind, size) for kind in ATTACKS for size in (18, 20, 67)),
    *((kind, 67) for kind in ODD),
]


def body(kind: str, megabytes: int) -> bytes:
    """Return a body of this size in MB; 67 is the largest that the gateway accepts."""
    begin, fill, end = (ATTACKS | ODD)[kind]
    start = b'{"model":"%s","messages":[],"x":' % MODEL.encode() + begin
    room, numbered = megabytes * 1_000_000 - len(start) - len(end), b"%" in fill
    times = room // len(fill % 0 if numbered else fill)
    filling = b"".join([fill % n for n in range(times)]) if numbered else fill * times
    return start + filling + end


class Watched:
    """A gateway in a process, whose memory and CPU time are read from /proc."""

    def __init__(self, upstream: ScriptedServer, pid: int, port: int) -> None:
        self.upstream, self.port, self.about = upstream, port, Path(f"/proc/{pid}")
        upstream.replies["/api/chat"] = whole({"done": True})

    def forget(self) -> None:
        """Reset the peak of memory."""
        self.upstream.seen.clear()
        with suppress(OSError):  # a kernel without it gives the peak of all tests up to now
            (self.about / "clear_refs").write_text("5")

    def cpu(self) -> float:
        """CPU time in seconds, during which the event loop is blocked."""
        user, system = (self.about / "stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> int:
        """Return the peak of memory since `forget`, in MB."""
        status = (self.about / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 1_000_000


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    upstream = scripted_ollama()
    with program(upstream) as (process, port):
        yield Watched(upstream, process.pid, port)
    upstream.close()


def same(it: bytes, other: bytes) -> bool:
    """Return whether both are the same JSON for Go."""
    first, second = (json.loads(raw.decode(errors="replace")) for raw in (it, other))
    return bool(first == second)


@pytest.mark.parametrize(("kind", "megabytes"), CASES)
def test_no_body_fills_the_memory_or_delays_other_requests(
    watched: Watched, kind: str, megabytes: int
) -> None:
    sent = body(kind, megabytes)
    watched.forget()
    before = watched.cpu()

    answer = ask(watched.port, "/api/chat", sent)

    used, peak = watched.cpu() - before, watched.peak()
    passed = [same(it.body, sent) for it in watched.upstream.got("/api/chat")]
    assert (answer.status, passed) in [(200, [True]), (400, []), (413, [])]
    assert kind not in ATTACKS or answer.status == 413
    assert peak < 300
    # CPU time, which other programs hardly change: 0.37 at most was seen; parsed, 67 MB of empty
    # lists are 4.4.
    assert used < 2


def test_a_body_sent_repeatedly_delays_no_request(watched: Watched) -> None:
    sent, times = body("lists", 2), 20
    watched.forget()
    before = watched.cpu()

    for _ in range(times):
        assert ask(watched.port, "/api/chat", sent).status == 413

    assert (watched.cpu() - before) / times < 0.06  # 0.006 was seen


def labels(*bodies: bytes) -> list[str]:
    """Return the model label of each request."""
    with lab() as home:
        home.upstream.replies["/api/chat"] = whole({"done": True})
        answers: list[Answer] = [home.ask("/api/chat", it) for it in bodies]
        assert {it.status for it in answers} == {200}
        home.outcomes()
        counts = {
            it.labels["gen_ai.request.model"]: it.value for it in home.metric("ollama.requests")
        }
        return sorted(name for name, count in counts.items() for _ in range(count))


TEXTS = {
    "a table": "1,2.5,abc\n" * 110_000,
    "a table in quotes": '"1","a ""b"""\n,' * 75_000,
    "paths": '"C:\\temp\\",\n[{' * 75_000,
    "JSON": json.dumps({"model": "x", "a": ["\\", '"', {}]}) * 28_000,
    "what ends in a backslash": "," * 1_000_000 + "\\",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_pasted_file_is_counted_under_its_model(text: str) -> None:
    assert len(text) >= 1_000_000
    messages = [{"role": "user", "content": text}]
    first, last = {"model": MODEL, "messages": messages}, {"messages": messages, "model": MODEL}

    assert labels(json.dumps(first).encode(), json.dumps(last).encode()) == [MODEL, MODEL]


def test_a_long_conversation_and_a_picture_are_counted_under_their_model() -> None:
    logged = [{"role": "user", "content": 'Hé, 😀 \\ "you"! ' * n} for n in range(1, 40)] * 40
    seen = [
        {
            "role": "user",
            "content": "What is it?",
            "images": [picture("jpeg", 4000, 3000) + "aBcD" * 5_000_000],
        }
    ]

    bodies = [json.dumps({"messages": it, "model": MODEL}).encode() for it in (logged, seen)]

    assert labels(*bodies) == [MODEL, MODEL]


WIDE = {"model": MODEL, "x": [[]] * (MOST_TOKENS // 2)}  # a list and its comma are three tokens
DEEP = b'{"model":"%s","x":%s}' % (MODEL.encode(), b"[" * 14_000 + b"]" * 14_000)
# The image has 3.12, which gives up at 10,000, as 3.13 does; 3.14 reads as deep as MOST_TOKENS.
BY_PYTHON = pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 reads any depth")


@pytest.mark.parametrize(
    "sent", [pytest.param(lines(WIDE), id="wide"), pytest.param(DEEP, id="deep", marks=BY_PYTHON)]
)
def test_unusual_json_is_refused_or_passed_on_unparsed(sent: bytes) -> None:
    with lab() as home:
        home.upstream.replies |= dict.fromkeys(["/api/chat", "/api/show"], whole({"done": True}))

        statuses = [
            home.ask("/api/chat", sent).status,
            home.ask("/api/chat", sent, MANAGES).status,
            home.ask("/api/show", sent).status,
        ]

        assert statuses == [413, 200, 200]
        assert home.outcomes() == {"bad_request": 1, "ok": 2}
        assert limits(home) == {"tokens": 1}
        passed = [*home.upstream.got("/api/chat"), *home.upstream.got("/api/show")]
        assert [it.body for it in passed] == [sent, sent]
        actual = {it.labels.get("gen_ai.request.model") for it in home.metric("ollama.requests")}
        assert actual == {"other", None}


@pytest.mark.parametrize(
    "sent",
    [
        *(b"", b"no json", b"[]", b'"model"', b"7", b"null", b'{"model":', b'{"model":"x"} {}'),
        *(b'{"a":NaN}', b'{"a":1e999}', b'{"a":%s}' % (b"1" * 5000), b"\xef\xbb\xbf{}"),
        b'{"a":"' + b"x" * 400,
    ],
)
def test_json_that_is_not_an_object_is_refused(shared_home: Lab, sent: bytes) -> None:
    seen, before = len(shared_home.upstream.seen), limits(shared_home).get("json", 0)

    answer = shared_home.ask("/api/chat", sent)

    assert (answer.status, limits(shared_home)["json"]) == (400, before + 1)
    assert [it.path for it in shared_home.upstream.seen[seen:] if it.path == "/api/chat"] == []


@pytest.fixture(scope="module")
def shared_home() -> Iterator[Lab]:
    with lab() as home:
        home.upstream.replies |= dict.fromkeys(RUNS, whole({"done": True}))
        yield home


def dropped(home: Lab) -> dict[str, int]:
    """Return the number of dropped keys by label."""
    return {point.labels["ollama.key"]: point.value for point in home.metric("ollama.keys.dropped")}


RUNS = [path for path, route in ROUTES.items() if route.operation]
PLAN = {"num_ctx": 1, "num_batch": 1, "num_gpu": 0, "main_gpu": 1, "use_mmap": True}
KEPT = {"temperature": 0.5, "seed": 7, "stop": ["a", "b"], "num_predict": -1, "repeat_last_n": 64}


@pytest.mark.parametrize("path", RUNS)
def test_keys_that_exceed_the_plan_are_dropped_and_counted(path: str) -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 400}], "think": True}
    outside = {"keep_alive": -1, "Keep_Alive": 0, "OPTIONS": PLAN, "template": "{{ .Prompt }}"}
    outside |= {"option\u017f": PLAN, "\u212aeep_alive": -1}  # Go takes these for s and k
    options = {"options": PLAN | KEPT | {"Num_Ctx": 9, "x" * 400: 1}}
    with lab() as home:
        home.upstream.replies[path] = whole({"done": True})

        home.ask(path, asked | outside | options)
        home.ask(path, asked | {"options": KEPT | {"repeat_last_n": 1e9}})
        home.ask(path, asked | {"options": None})
        home.ask(path, asked | outside | options, MANAGES)

        assert home.outcomes() == {"ok": 4}
        got = [json.loads(it.body) for it in home.upstream.got(path)]
        assert got[0] == asked | {"options": KEPT}
        assert got[1] == asked | {"options": {k: v for k, v in KEPT.items() if k[0] != "r"}}
        assert got[2:] == [asked | {"options": None}, asked | outside | options]
        assert dropped(home) == {
            **dict.fromkeys([*PLAN, "keep_alive", "template", "repeat_last_n"], 1),
            "case": 4,
            "other": 2,
        }
        passed = home.upstream.got(path)[-1]
        assert b"uthorization" not in passed.head


def walk(value: Any) -> Iterator[str]:
    """Yield each string of a JSON value, and the character of each opening or comma."""
    if isinstance(value, str):
        yield json.dumps(value)
    if isinstance(value, list | dict):
        yield "{" if isinstance(value, dict) else "["
        for n, it in enumerate(value):
            yield from "," * bool(n)
            yield from walk(it)
            yield from walk(value[it]) if isinstance(value, dict) else ()


TEXT = st.text() | st.text('a,[{"\\\n', min_size=1).map(lambda text: text * 100)
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


@given(value=JSON, indent=st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_tokens_are_those_of_the_json(value: Any, indent: int | None) -> None:
    raw = json.dumps(value, indent=indent).encode()

    tokens = [it[0].decode() for it in TOKEN.finditer(raw)]

    assert "".join(tokens) == raw.decode()
    assert [it for it in tokens if it[0] in '",[{'] == list(walk(value))


@given(value=st.dictionaries(TEXT.map(str.casefold), JSON), indent=st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_a_serialized_body_equals_the_original(value: dict[str, Any], indent: int | None) -> None:
    value = {key: it for key, it in value.items() if key == key.casefold()}
    # Hypothesis also tries constants of the program.
    for key in (*DROPPED, "format", "options"):
        value.pop(key, None)
    budget = Budget("all", 2**30, 0)
    body = Body(budget, budget, 2**30)
    body.raw += json.dumps(value, indent=indent, ensure_ascii=bool(indent)).encode(
        errors="surrogatepass"
    )

    parsed = body.parse()

    assert json.loads(b"".join(parsed.pieces)) == value
    assert parsed.dropped == []


@given(raw=st.text('"\\,[{}]: 1n\n').map(str.encode) | st.binary())
@settings(max_examples=200, deadline=None)
def test_tokens_cover_invalid_json_completely(raw: bytes) -> None:
    assert b"".join(it[0] for it in TOKEN.finditer(raw)) == raw


STRING, SELF = {"type": "string"}, {"$ref": "#/$defs/a"}


def deep(levels: int) -> dict[str, Any]:
    """Return nested arrays."""
    return STRING if levels == 0 else {"type": "array", "items": deep(levels - 1)}


def wide(names: int) -> dict[str, Any]:
    """Return an object with optional properties."""
    return {"type": "object", "properties": {f"p{n}": STRING for n in range(names)}}


def types(levels: int) -> dict[str, Any]:
    """Return nested objects, each of ten types."""
    inside = {"properties": {"a": types(levels - 1)}} if levels else {}
    return {"type": ["object"] * 10, **inside}


# Each of the first kind ended a process of Ollama 0.24, or filled its memory.
ENDS = {
    **{
        f"pattern {pattern}": {"type": "string", "pattern": pattern}
        for pattern in (
            *(r"^\d{3}-\d{4}$", "^(?=a)a$", "^[z-a]$", "^a{5,2}$", "^a]$", "^a**$", "^()*$"),
            *("^*$", "^{3}$", "^a{2001}$", "^a{1001}b{1000}$", "^a\\$", "^\x00$"),
        )
    },
    "long": {"type": "string", "minLength": 2001},
    "many": {"type": "array", "items": STRING, "maxItems": 2001},
    "less than none": {"type": "string", "minLength": -1},
    "at least more than at most": {"type": "string", "minLength": 50, "maxLength": 5},
    "deep": deep(64),
    "wide": wide(400),
    "no alternative": {"anyOf": []},
    "itself": {"$defs": {"a": {"anyOf": [SELF, STRING]}}, **SELF},
    "itself by another": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [SELF]}}, **SELF},
    **{
        f"a name with {odd!a} beside others": {
            "properties": {"a" + odd + "b": STRING},
            "additionalProperties": more,
        }
        for odd, more in ((r"\\", True), ("]", STRING), ("\0", True))
    },
    "long names": {"properties": {f"{n:050}": STRING for n in range(80)}},
    "long names beside others": {
        "properties": {f"{n:050}": STRING for n in range(30)},
        "additionalProperties": True,
    },
    "many names below a long one": {"properties": {"a" * 50: wide(100)}},
    "a name that is too long": {"properties": {"a" * 400: STRING}},
    "a value that is too long": {"enum": ["a" * 400]},
    "itself by a merged one": {"$defs": {"a": {"allOf": [SELF]}}, **SELF},
    "itself beside a harmless circle": {
        "$defs": {"a": {"anyOf": [{"type": "array", "items": SELF}, SELF]}},
        **SELF,
    },
    "a tree of what ends it": {
        "$defs": {"a": {"type": "object", "properties": {"a": SELF, "b": {"anyOf": []}}}},
        **SELF,
    },
    "a size that is no whole number": {"type": "string", "minLength": 1.5},
    "a size that is no number": {"type": "string", "minLength": "5"},
    "deep by references": {
        "$defs": {
            f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(99)
        }
        | {"d99": STRING},
        "$ref": "#/$defs/d0",
    },
    "a number between more and less": {"type": "integer", "minimum": 9, "maximum": 1},
    "many types of many types": types(10),
    "two halves that are merged": {"allOf": [{"anyOf": [wide(150), wide(150)]}]},
    "a large list by many references": {
        "$defs": {"a": {"enum": [*range(12_500)]}},
        "anyOf": [SELF] * 500,
    },
    "hidden by one of the same name": {
        "$defs": {"a": {"type": "string", "minLength": 9999}, "b": {"$defs": {"a": STRING}}},
        **SELF,
    },
}
WORKS = {
    "json": "json",
    "nothing": None,
    "a person": {
        "$defs": {"name": {"type": "string", "minLength": 1, "maxLength": 200}},
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/name"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/name"}, "maxItems": 9},
            "pattern": {"type": "string", "description": "a property may be called so"},
            "minLength": {"enum": ["s", "m", "l"]},
        },
        "required": ["name"],
    },
    **{
        f"pattern {pattern}": {"type": "string", "pattern": pattern}
        for pattern in (
            *("^[a-z]+$", "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "^#[0-9a-fA-F]{6}$", "^v?a{1,2000}$"),
            r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$",
        )
    },
    "large": {"type": "string", "minLength": 2000},
    "odd names": {"properties": {'é"-^]\\': STRING, "": STRING}},
    "odd names beside others": {
        "properties": {'é"-^[': STRING, "a": STRING},
        "additionalProperties": True,
    },
    "long names": {"properties": {f"{n:050}": STRING for n in range(55)}},
    "a definition that is used often": {
        "$defs": {"a": wide(20)},
        "properties": {f"p{n}": SELF for n in range(50)},
    },
    "a size with a point": {"type": "string", "minLength": 3.0, "maxLength": 1e1},
    "a tree": {
        "$defs": {
            "a": {
                "type": "object",
                "properties": {"name": STRING, "children": {"type": "array", "items": SELF}},
                "required": ["name", "children"],
            }
        },
        **SELF,
    },
    "a list of two that refer to each other": {
        "$defs": {
            "a": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/b"}]}}},
            "b": {"anyOf": [SELF, {"type": "null"}]},
        },
        **SELF,
    },
    "an object of any keys of itself": {
        "$defs": {"a": {"type": "object", "additionalProperties": SELF}},
        **SELF,
    },
    "one of many": {"enum": [*range(5000)]},
    "of two types": {"type": ["string", "null"]},
    "merged": {"allOf": [wide(100), wide(100)]},
    "deep": deep(20),
    "wide": wide(200),
}


@pytest.mark.parametrize("name", [*ENDS, *(f"{name}, fine" for name in WORKS)])
def test_a_schema_that_crashes_ollama_is_refused(shared_home: Lab, name: str) -> None:
    schema = ENDS.get(name, WORKS.get(name.removesuffix(", fine")))
    before = limits(shared_home).get("schema", 0)

    answer = shared_home.ask("/api/chat", {"model": MODEL, "format": schema})

    assert answer.status == (400 if name in ENDS else 200), answer.body
    assert limits(shared_home).get("schema", 0) - before == (name in ENDS)
    if name in ENDS:
        assert b"a schema that would end the model: " in answer.body


def with_picture(path: str, held: object) -> dict[str, Any]:
    """Return a request's keys with a picture's base64."""
    if path == "/api/generate":
        return {"images": [held]}
    return {"messages": [{"role": "user", "content": "What is it?", "images": [held]}]}


SEES = ["/api/generate", "/api/chat"]
LARGE = [
    *(("png", 60_000, 450), ("jpeg", 65_535, 400), ("webp", 16_000, 1600)),
    *(("webp lossless", 16_000, 1600), ("webp clear", 16_000, 1600)),
]


@pytest.mark.parametrize("path", SEES)
@pytest.mark.parametrize(("kind", "width", "height"), LARGE)
def test_a_picture_that_fills_the_memory_is_refused(
    shared_home: Lab, path: str, kind: str, width: int, height: int
) -> None:
    before = limits(shared_home).get("pictures", 0)
    large, fits = picture(kind, width, height), picture(kind, 6000, 4000)
    cased = json.dumps(with_picture(path, large))
    cased = cased.replace('"images":', f'"Image{chr(0x17F)}":')

    bodies = [
        json.dumps({"model": MODEL} | with_picture(path, large)),
        json.dumps({"model": MODEL} | with_picture(path, large)).replace("A", r"\u0041"),
        json.dumps({"model": MODEL} | with_picture(path, large[:8] + "\r\n" + large[8:])),
        json.dumps({"model": MODEL} | with_picture(path, large + "aBcD" * 400)),
    ]
    if path != "/api/generate":  # where such a key is dropped
        bodies.append(f'{{"model":"{MODEL}",{cased[1:]}')
    statuses = [shared_home.ask(path, it.encode()).status for it in bodies]
    assert statuses == [413] * len(bodies)
    assert limits(shared_home)["pictures"] == before + len(bodies)
    assert shared_home.ask(path, {"model": MODEL} | with_picture(path, fits)).status == 200


UNKNOWN = {
    "a GIF": "R0lGODlhAQABAAAAACw=",
    "a sound": "UklGRiQAAABXQVZFZm10IA==",
    "a JPEG without a size": "/9j/" + "/wD/" * 30_000,
    "a PNG that begins with another chunk": "iVBORw0KGgoAAAAEQ2dCSQ==",
    "numbers, which Go takes for bytes": [0x89, 0x50, 0x4E, 0x47],
    "nothing": "",
}


@pytest.mark.parametrize("path", SEES)
@pytest.mark.parametrize("held", UNKNOWN.values(), ids=UNKNOWN)
def test_a_picture_of_unknown_size_is_refused(shared_home: Lab, path: str, held: object) -> None:
    answer = shared_home.ask(path, {"model": MODEL} | with_picture(path, held))
    assert answer.status == 400
    assert b"pictures: must be PNG, JPEG or WebP" in answer.body


def test_pictures_of_a_request_are_bounded(shared_home: Lab) -> None:
    fits = picture("png", 9, 9)
    statuses = [
        shared_home.ask("/api/generate", {"model": MODEL, "images": [fits] * count}).status
        for count in (MOST_PICTURES, MOST_PICTURES + 1)
    ]
    assert statuses == [200, 413]


def test_keys_of_a_tool_are_no_pictures(shared_home: Lab) -> None:
    called = {"function": {"name": "f", "arguments": {"images": ["abcd"]}}}
    message = {"role": "assistant", "tool_calls": [called]}
    assert shared_home.ask("/api/chat", {"model": MODEL, "messages": [message]}).status == 200


@pytest.mark.parametrize("path", RUNS)
def test_text_is_bounded(path: str) -> None:
    def asked(size: int) -> bytes:
        text = {"model": MODEL, "messages": [{"content": "x" * size}], "prompt": [""]}
        return json.dumps(text | {"images": [picture("png", 9, 9) + "aBcD" * 30_000]}).encode()

    with lab(text_bytes=100_000) as home:
        home.upstream.replies[path] = whole({"done": True})
        statuses = [home.ask(path, asked(size)).status for size in (99_000, 101_000)]
        assert (statuses, limits(home)) == ([200, 413], {"text": 1})
        assert home.ask(path, asked(101_000), MANAGES).status == 200


def test_texts_together_are_bounded_until_ollama_answers_and_small_ones_always_pass() -> None:
    answering, ending = Event(), Event()

    def late(to: Connection) -> None:
        assert answering.wait(60)
        to.send(head() + chunk(lines({"response": "a"})))
        assert ending.wait(60)
        to.send(b"0\r\n\r\n")

    def asked(size: int) -> dict[str, Any]:
        return {"model": MODEL, "prompt": "x" * size}

    with lab(texts_bytes=100_000) as home, ExitStack() as stack:
        home.upstream.replies |= {"/api/generate": late, "/api/chat": whole({"done": True})}
        texts = home.gateway.texts
        stack.callback(ending.set)
        stack.callback(answering.set)
        stack.enter_context(closing(home.connect(asked(90_000), "/api/generate")))
        assert eventually(lambda: texts.held > 70_000)
        assert eventually(lambda: home.upstream.got("/api/generate"))

        assert home.ask("/api/chat", asked(50_000)).status == 503
        assert home.ask("/api/chat", asked(SMALL_TEXT - 100)).status == 200
        answering.set()
        assert eventually(lambda: texts.held == 0)
        assert home.ask("/api/chat", asked(50_000)).status == 200
        ending.set()
        assert home.outcomes() == {"busy": 1, "ok": 3}
        assert limits(home) == {"texts": 1}


NOT_RUNS = [
    path
    for path, route in ROUTES.items()
    if not (route.operation or route.manages) and "POST" in route.methods
]


@pytest.mark.parametrize("path", NOT_RUNS)
def test_a_body_that_is_not_parsed_is_small(shared_home: Lab, path: str) -> None:
    shared_home.upstream.replies[path] = whole({})
    statuses = [shared_home.ask(path, b" " * size).status for size in (2**16, 2**16 + 1)]
    assert statuses == [200, 413]
    assert shared_home.ask(path, b" " * (2**16 + 1), MANAGES).status == 200
