"""The gateway before the real Ollama: no request exceeds the plan or ends a process.

The plan is `OLLAMA_CONTEXT_LENGTH` and `OLLAMA_KEEP_ALIVE`; `/api/ps` has the actual values.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from gateway_lab import (
    MANAGES,
    TOKEN,
    Answer,
    Lab,
    ask,
    lab,
    program,
    scripted_ollama,
)
from gateway_schema import PATTERN
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_gateway_bodies import WORKS
from test_real_models import Lab as Ollama
from waiting import eventually

from sandbox.model_registry import model_registry

MODEL = "a:1b"
CONTEXT = 2048
SMALL = {"num_predict": 2, "seed": 1, "temperature": 0}


class Gateways(NamedTuple):
    """The real server, with one model loaded, and the gateway before it."""

    ollama: Ollama
    port: int

    def ask(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        """Return the gateway's response."""
        return ask(self.port, path, body, headers)

    def loaded(self) -> dict[str, Any]:
        """Return the loaded model's entry of `/api/ps`, and the runners' process IDs."""
        [model] = self.ollama.ask("/api/ps")["models"]
        return dict(model) | {"runners": runners(self.ollama)}


def runners(ollama: Ollama) -> list[int]:
    """Return the IDs of Ollama's child processes, one for each loaded model."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # another program ended meanwhile
            if path.read_text().rpartition(")")[2].split()[1] == str(ollama.process.pid):
                children.append(int(path.parent.name))
    return children


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, programs: dict[str, Path]
) -> Iterator[Gateways]:
    folder = tmp_path_factory.mktemp("ollama")
    environment = {"PATH": "/usr/bin:/bin", "OLLAMA_CONTEXT_LENGTH": str(CONTEXT)}
    environment |= {"OLLAMA_LLM_LIBRARY": "cpu", "OLLAMA_NO_CLOUD": "1", "OLLAMA_KEEP_ALIVE": "30m"}
    ollama = Ollama(folder, programs["ollama"], environment=environment)
    with model_registry(folder) as registry:
        ollama.environment |= registry
        ollama.start()
        try:
            ollama.by_hand("pull", MODEL)
            ollama.by_hand("pull", "b:1b")
            upstream = scripted_ollama()
            upstream.close()
            upstream.port = int(ollama.host.rpartition(":")[2])
            with program(upstream, GATEWAY_MANAGE_TOKEN=TOKEN) as (_, port):
                yield Gateways(ollama, port)
        finally:
            ollama.kill()


def cased(name: str) -> st.SearchStrategy[str]:
    """Return a name in any case, also with the two letters that only Go folds to k and s."""
    odd = {"k": "\u212a", "s": "\u017f"}
    letters = (st.sampled_from(x + x.upper() + odd.get(x, "")) for x in name)
    folded = "".join(odd.get(x, x) for x in name)  # lower case to all but Go
    return st.just(folded) | st.tuples(*letters).map("".join)


NUMBERS = st.sampled_from([-1, 1, 8, 512, 4096, 0.5])
NAMES = st.sampled_from(["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "top_k"])
OPTIONS = st.dictionaries(NAMES | NAMES.flatmap(cased), NUMBERS, min_size=1, max_size=4).map(
    lambda some: some | SMALL
)
KEPT = st.sampled_from([-1, 0, "0s", "-1s", "1ms", "24h", 1e9])
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.text('a\\"{[,é😀\n', max_size=400)
JUNK = st.text('xyz\\"', min_size=1, max_size=4)
PAIRS = st.lists(
    st.one_of(
        st.tuples(st.just("options") | cased("options"), OPTIONS | st.none()),
        st.tuples(st.just("keep_alive") | cased("keep_alive"), KEPT),
        st.tuples(
            cased("model").filter(lambda name: name != "model"),
            st.sampled_from(["b:1b", "a:1b", ""]),
        ),
        st.tuples(JUNK, PLAIN | st.lists(PLAIN, max_size=3)),
    ),
    max_size=5,
)
ASKED: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "Hello", "stream": False},
    "/api/chat": {"messages": [{"role": "user", "content": "Hé 😀"}], "stream": False},
    "/api/embed": {"input": ["Hello", "you"]},
    "/api/embeddings": {"prompt": "Hello"},
}


def written(pairs: list[tuple[str, Any]], escaped: bool, spaced: bool) -> bytes:
    """Return JSON with duplicate keys."""
    members = (
        f"{json.dumps(key, ensure_ascii=escaped)}:{json.dumps(value, ensure_ascii=escaped)}"
        for key, value in pairs
    )
    return ("{" + (" ,\n" if spaced else ",").join(members) + "}").encode()


@given(
    path=st.sampled_from(list(ASKED)) | st.sampled_from(["/api/generate", "/api/chat"]),
    pairs=PAIRS,
    where=st.integers(0, 5),
    escaped=st.booleans(),
    spaced=st.booleans(),
)
@settings(max_examples=100, deadline=None, phases=[Phase.generate])  # it shrinks for minutes
def test_no_request_exceeds_the_plan(
    server: Gateways, path: str, pairs: list[Any], where: int, escaped: bool, spaced: bool
) -> None:
    server.ollama.ask("/api/generate", {"model": MODEL})
    before = server.loaded()
    honest = [("model", MODEL), *ASKED[path].items()]
    pairs = [("options", SMALL), *pairs[:where], *honest, *pairs[where:]]

    answer = server.ask(path, written(pairs, escaped, spaced))

    after = server.loaded()
    assert answer.status == 200, answer.body
    assert (after["name"], after["context_length"]) == (MODEL, CONTEXT)
    assert after["runners"] == before["runners"]  # it was not loaded anew
    left = datetime.fromisoformat(after["expires_at"]) - datetime.now().astimezone()
    assert 0 < left.total_seconds() <= 1800


SIZE: st.SearchStrategy[Any] = st.sampled_from([-1, 0, 1, 7, 1999, 2000, 2001, 1e3, "5", None, {}])
WORDS = st.sampled_from(["string", "integer", "number", "boolean", "null", "object", "array"])
PART = st.fixed_dictionaries(
    {},
    optional={
        "type": WORDS | st.lists(WORDS, max_size=3),
        "enum": st.lists(PLAIN, max_size=3),
        "const": PLAIN,
        "minLength": SIZE,
        "maxLength": SIZE,
        "minimum": SIZE,
        "maximum": SIZE,
        "format": st.sampled_from(["date", "time", "uuid", "odd"]),
        "pattern": st.from_regex(PATTERN, fullmatch=True),
        "$ref": st.sampled_from(["#/$defs/a", "#/$defs/b", "#", "#/none", ""]),
    },
) | st.fixed_dictionaries({"type": WORDS})


def larger(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return schemas composed of others."""
    named = st.dictionaries(st.sampled_from(["a", "b", "pattern", 'é"\\', ""]), part, max_size=4)
    some = st.lists(part, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": WORDS,
            "properties": named,
            "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
            "additionalProperties": st.booleans() | part,
            "items": part | some,
            "prefixItems": some,
            "minItems": SIZE,
            "maxItems": SIZE,
            "anyOf": some,
            "oneOf": some,
            "allOf": some,
            "$defs": named,
        },
    )


@given(schema=st.recursive(PART, larger, max_leaves=12))
@settings(max_examples=100, deadline=None, phases=[Phase.generate])
def test_no_accepted_schema_ends_a_process(server: Gateways, schema: Any) -> None:
    """Some are refused by the gateway, and some by Ollama."""
    body = {"model": MODEL, "stream": False, "prompt": "Hello", "options": SMALL}
    server.ollama.ask("/api/generate", {"model": MODEL})
    before = server.loaded()["runners"]

    answer = server.ask("/api/generate", body | {"format": schema})

    assert answer.status in (200, 400) or b"format" in answer.body, (schema, answer.body)
    assert server.loaded()["runners"] == before, schema


@pytest.mark.parametrize("schema", WORKS.values(), ids=WORKS)
def test_an_ordinary_schema_works(server: Gateways, schema: Any) -> None:
    body = {"model": MODEL, "stream": False, "prompt": "Hello", "options": SMALL}
    server.ollama.ask("/api/generate", {"model": MODEL})
    before = server.loaded()["runners"]

    assert server.ask("/api/generate", body | {"format": schema}).status == 200
    assert server.loaded()["runners"] == before


@pytest.mark.parametrize("key", ["keep_alive", "Keep_Alive", "\u212aeep_alive", "keep_ali\\u0076e"])
def test_without_the_gateway_each_dropped_key_unloads_the_model(server: Gateways, key: str) -> None:
    server.ollama.ask("/api/generate", {"model": MODEL})
    body = b'{"model":"%s","%s":0}' % (MODEL.encode(), key.encode())

    assert server.ask("/api/generate", body).status == 200
    assert server.loaded()["name"] == MODEL
    assert server.ask("/api/generate", body, MANAGES).status == 200
    assert eventually(lambda: server.ollama.ask("/api/ps")["models"] == [])


def test_requests_with_the_token_keep_their_options(server: Gateways) -> None:
    body = {"model": MODEL, "options": {"num_ctx": 512} | SMALL, "keep_alive": -1, "stream": False}
    assert server.ask("/api/generate", body, MANAGES).status == 200
    loaded = server.loaded()
    assert loaded["context_length"] == 512
    assert int(loaded["expires_at"][:4]) > 2200
    assert server.ask("/api/generate", {"model": MODEL, "keep_alive": 0}, MANAGES).status == 200


def test_a_hanging_process_is_reported_although_ollama_answers(
    server: Gateways,
) -> None:
    server.ollama.ask("/api/generate", {"model": MODEL})
    runner = server.loaded()["runners"][-1]

    def silence(home: Lab) -> float:
        return max((float(point.value) for point in home.metric("ollama.model.silence")), default=0)

    with lab(upstream=f"http://{server.ollama.host}") as home:
        os.kill(runner, signal.SIGSTOP)
        try:
            body = {"model": MODEL, "prompt": "Hello", "options": SMALL}
            with closing(home.connect(body, "/api/generate")):
                assert eventually(lambda: silence(home) > 2)
                assert home.ask("/api/version").status == 200
                assert server.loaded()["name"] == MODEL
        finally:
            os.kill(runner, signal.SIGCONT)
        assert eventually(lambda: silence(home) == 0)


def peak(process: int) -> int:
    """Return the most memory that a process has had, in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) // 1000


def test_an_option_that_fills_the_memory_is_dropped(server: Gateways) -> None:
    server.ollama.ask("/api/generate", {"model": MODEL})
    [runner] = runners(server.ollama)
    before = peak(runner)
    options = SMALL | {"repeat_last_n": 50_000_000}  # the sampler allocates as many
    body = {"model": MODEL, "prompt": "Hello", "stream": False, "options": options}

    assert server.ask("/api/generate", body).status == 200
    assert peak(runner) < before + 50
    assert server.ask("/api/generate", body, MANAGES).status == 200
    assert peak(runner) > before + 100


@pytest.mark.parametrize("path", ["/api/chat", "/api/show"])
def test_a_text_that_fills_the_memory_is_refused(server: Gateways, path: str) -> None:
    """To split a text into tokens, Ollama needs 170 times its size."""
    server.ollama.ask("/api/generate", {"model": MODEL})
    processes = [server.ollama.process.pid, *runners(server.ollama)]
    before = sum(map(peak, processes))
    messages = [{"role": "user", "content": "word " * 800_000}]
    body = {"model": MODEL, "stream": False, "options": SMALL, "messages": messages}

    assert server.ask(path, body).status == 413
    assert sum(map(peak, processes)) < before + 50
    if path == "/api/chat":
        assert server.ask(path, body, MANAGES).status == 200
        assert sum(map(peak, processes)) > before + 300


def test_a_template_is_dropped(server: Gateways) -> None:
    """One of 5 kB can write a prompt of any size."""
    body = {"model": MODEL, "prompt": "Hello", "stream": False, "options": SMALL}
    template = {"template": '{{ printf "%50d" 1 }}'}
    plain, dropped, applied = (
        json.loads(server.ask("/api/generate", body | more, headers).body)["prompt_eval_count"]
        for more, headers in (({}, {}), (template, {}), (template, MANAGES))
    )
    assert plain == dropped < applied


def test_an_answer_is_the_same_with_and_without_the_gateway(server: Gateways) -> None:
    body = {"model": MODEL, "prompt": "Hé 😀 " + "x" * 400, "stream": False, "options": SMALL}
    through = json.loads(server.ask("/api/generate", body).body)
    direct = server.ollama.ask("/api/generate", body)
    assert (through["response"], through["context"]) == (direct["response"], direct["context"])
