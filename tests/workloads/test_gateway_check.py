"""The gateway's check whether models are on the GPU and answer right, on a scripted Ollama."""

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gateway_check
import pytest
from gateway_check import Check
from gateway_lab import LOADED, MODELS, SIZE, Connection, Lab, lab, wait_for, whole
from gateway_meters import GONE

MODEL, OTHER = "llama3.2:3b", "codellama:latest"
HOUR = 3600.0
RIGHT = whole({"response": " 9, 10, 11", "done": True})
SHOWN = {"capabilities": ["completion", "tools"], "model_info": {"llama.context_length": 131072}}
GPU, CORRECT, MOMENT = "ollama.check.gpu", "ollama.check.correct", "ollama.check.timestamp"


class House:
    """A gateway whose Ollama loads what it is asked, and its check, which looks when told to."""

    def __init__(self, one: Lab) -> None:
        self.lab, self.answer, self.share = one, RIGHT, 1.0
        self.loaded: dict[str, dict[str, Any]] = {}
        replies = one.upstream.replies
        replies["/api/ps"] = lambda to: whole({"models": [*self.loaded.values()]})(to)
        replies["/api/show"] = whole(SHOWN)
        replies["/api/generate"] = replies["/api/chat"] = self.generate
        self.gateway = one.gateway
        settings = replace(one.settings, check_model=MODEL)
        about = (one.gateway.session, one.gateway.poller, one.gateway.meters)
        self.check = Check(settings, *about)

    def load(self, name: str, **more: Any) -> None:
        """Have a model in memory, for a while unless told otherwise."""
        about = {"name": name, "size": SIZE, "size_vram": int(SIZE * self.share)}
        self.loaded[name] = LOADED | about | {"expires_at": "2026-01-01T00:00:00Z"} | more

    def generate(self, to: Connection) -> None:
        """Load the model, and answer."""
        if (name := json.loads(to.body)["model"]) not in self.loaded:
            self.load(name)
        self.answer(to)

    def look(self) -> list[str]:
        """Let the check look once, and name the models that it has asked by then."""
        self.lab.run(self.check.look())
        return [one["model"] for one in self.asked()]

    def asked(self) -> list[dict[str, Any]]:
        """The questions so far."""
        return [json.loads(one.body) for one in self.lab.upstream.got("/api/generate")]

    def later(self, seconds: float) -> None:
        """Let time pass."""
        for name in self.check.asked:
            self.check.asked[name] -= seconds

    def chat(self, name: str) -> None:
        """Be a user."""
        self.lab.ask("/api/chat", {"model": name, "messages": []})
        wait_for(lambda: not self.gateway.meters.running)

    def found(self) -> dict[str, dict[str, float]]:
        """What is pushed of the check: by gauge and model."""
        wait_for(lambda: self.gateway.poller.values.items() >= self.gateway.poller.checks.items())
        names = (GPU, CORRECT, MOMENT)
        return {
            name: {
                point.labels["gen_ai.request.model"]: point.value for point in self.lab.metric(name)
            }
            for name in names
        }


@pytest.fixture
def home() -> Iterator[House]:
    with lab() as one:
        yield House(one)


def test_the_default_model_is_asked_to_count_after_the_start(home: House) -> None:
    began = time.time()

    assert home.look() == [MODEL]
    found = home.found()
    assert (found[GPU], found[CORRECT]) == ({MODEL: 1}, {MODEL: 1})
    assert began <= found[MOMENT][MODEL] <= time.time()
    (question,) = home.asked()
    assert (question["raw"], question["stream"]) == (True, False)
    # Its life in memory is the server's to say, and so is its context while it is not loaded.
    assert question.keys() == {"model", "prompt", "raw", "stream", "options"}
    assert question["options"] == {"temperature": 0, "seed": 0, "num_predict": 8}


@pytest.mark.parametrize("share", [0, 0.25, 1])
def test_the_share_on_the_gpu_is_told(home: House, share: float) -> None:
    home.share = share
    home.look()

    assert home.found()[GPU][MODEL] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ({"response": "9"}, 1),
        ({"response": "\n9, 10"}, 1),
        ({"response": "GGGGGGGG"}, 0),
        ({"response": ""}, 0),
        ({"response": " 99999999"}, 0),
        ({"response": " 8, 9"}, 0),
        ({"error": "out of memory"}, 0),
    ],
)
def test_only_the_next_number_is_right(home: House, answer: dict[str, str], correct: int) -> None:
    home.answer = whole(answer)
    home.look()

    assert home.found()[CORRECT] == {MODEL: correct}


def test_a_model_that_cannot_be_loaded_is_wrong_and_nowhere(home: House) -> None:
    def broken(to: Connection) -> None:
        whole({"error": "llama runner process has terminated"}, "500 Internal Server Error")(to)

    home.lab.upstream.replies["/api/generate"] = broken
    home.look()

    assert (home.found()[GPU], home.found()[CORRECT]) == ({}, {MODEL: 0})


def test_no_answer_in_time_is_wrong(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_check, "PATIENCE", 0.2)
    home.answer = lambda to: to.send(b"" if to.wait_closed() else b"late")
    home.look()

    assert home.found()[CORRECT] == {MODEL: 0}


@pytest.mark.parametrize("status", ["503 Service Unavailable", "404 Not Found", "400 Bad Request"])
def test_what_could_not_be_asked_is_neither_right_nor_wrong(home: House, status: str) -> None:
    home.answer = whole({"error": "not now"}, status)

    assert home.look() == [MODEL]
    assert home.found() == {GPU: {}, CORRECT: {}, MOMENT: {}}


def test_what_is_loaded_is_asked_and_nothing_is_driven_out_for_the_default(home: House) -> None:
    home.load(OTHER)

    assert home.look() == [OTHER]
    assert home.look() == [OTHER]
    assert home.found()[CORRECT] == {OTHER: 1}


@pytest.mark.parametrize(("context", "sent"), [(4096, 4096), (131072, None)])
def test_a_loaded_model_is_not_loaded_anew(home: House, context: int, sent: int | None) -> None:
    # What it was trained for is also what a longer one is cut to, so nobody knows what was asked.
    home.load(OTHER, context_length=context)
    home.look()

    assert home.asked()[0]["options"].get("num_ctx") == sent


def test_a_model_that_only_embeds_is_left_alone(home: House) -> None:
    home.lab.upstream.replies["/api/show"] = whole({"capabilities": ["embedding"]})
    home.load(OTHER)

    assert home.look() == []
    home.look()
    assert len(home.lab.upstream.got("/api/show")) == 1


def test_the_default_model_is_waited_for(home: House) -> None:
    del home.gateway.poller.known[MODEL]
    home.lab.upstream.replies["/api/tags"] = whole({"models": MODELS[1:]})
    wait_for(lambda: MODEL not in home.gateway.poller.known)
    assert home.look() == []

    home.lab.upstream.replies["/api/tags"] = whole({"models": MODELS})
    wait_for(lambda: MODEL in home.gateway.poller.known)
    assert home.look() == [MODEL]


def test_while_somebody_is_answered_nothing_is_asked(home: House) -> None:
    go = threading.Event()

    def slow(to: Connection) -> None:
        go.wait(5)
        RIGHT(to)

    home.lab.upstream.replies["/api/chat"] = slow
    with closing(home.lab.connect({"model": MODEL, "messages": []})) as client:
        wait_for(lambda: home.lab.upstream.got("/api/chat"))
        assert home.look() == []
        go.set()
        client.recv(1)
    wait_for(lambda: not home.gateway.meters.running)
    assert home.look() == [MODEL]


def test_nobodys_model_is_asked_twice_in_an_hour_or_kept_loaded_for_it(home: House) -> None:
    assert home.look() == [MODEL]
    home.chat(MODEL)
    home.later(HOUR / 2)
    assert home.look() == [MODEL]  # used, but half an hour ago
    home.later(HOUR / 2)
    assert home.look() == [MODEL] * 2
    home.later(HOUR)
    assert home.look() == [MODEL] * 2  # still loaded, but by nobody's wish
    home.loaded.clear()
    assert home.look() == [MODEL] * 3  # so nothing else is in the way


def test_a_model_that_stays_for_ever_is_asked_every_hour(home: House) -> None:
    home.load(OTHER, expires_at=LOADED["expires_at"])
    home.look()
    home.later(HOUR)

    assert home.look() == [OTHER] * 2


def test_a_result_ends_after_two_hours(home: House) -> None:
    home.look()
    home.later(1.9 * HOUR)
    home.chat(OTHER)
    home.look()
    assert home.found()[CORRECT] == {MODEL: 1, OTHER: 1}

    home.later(0.2 * HOUR)
    home.look()
    wait_for(lambda: home.found()[CORRECT] == {OTHER: 1})


def test_another_start_is_another_check(home: House) -> None:
    home.look()
    assert home.found()[CORRECT] == {MODEL: 1}
    version = home.lab.upstream.replies.pop("/api/version")
    wait_for(lambda: home.gateway.poller.values["ollama.up"] == {"": 0.0})
    # Marked as ended: of what may come, nothing is known.
    gone = struct.pack("<d", home.lab.metric(CORRECT)[0].value)
    assert gone == struct.pack("<d", GONE)

    home.lab.upstream.replies["/api/version"] = version
    home.loaded.clear()
    wait_for(lambda: home.gateway.poller.values["ollama.up"] == {"": 1.0})
    assert home.look() == [MODEL] * 2


def test_it_looks_by_itself_only_where_a_gpu_is_expected() -> None:
    def asked(**settings: str) -> int:
        with lab(poll_seconds=0.05, **settings) as one:
            one.upstream.replies["/api/show"] = whole(SHOWN)
            if settings:
                wait_for(lambda: one.upstream.got("/api/generate"))
            time.sleep(0.3)
            return len(one.upstream.got("/api/generate"))

    assert asked() == 0
    assert asked(check_model=MODEL) == 1


def test_nonsense_does_not_end_it() -> None:
    with lab(poll_seconds=0.05, check_model=MODEL, check_seconds=0.1) as one:
        one.upstream.replies["/api/show"] = whole(SHOWN)
        for path, nonsense in (("/api/show", b"no json"), ("/api/ps", b"[]"), ("/api/ps", b"{}")):
            well = one.upstream.replies[path]
            one.upstream.replies[path] = whole(nonsense)
            before = len(one.upstream.got(path))
            wait_for(lambda path=path, before=before: len(one.upstream.got(path)) > before + 2)  # type: ignore[misc]
            one.upstream.replies[path] = well
        before = len(one.upstream.got("/api/generate"))
        wait_for(lambda: len(one.upstream.got("/api/generate")) > before)


def test_a_result_is_printed_when_it_changes(
    home: House, capsys: pytest.CaptureFixture[str]
) -> None:
    for share, again in ((1, "later"), (1, "later"), (0, "")):
        home.share = share
        home.loaded.clear()
        home.look()
        home.later(HOUR if again else 0)

    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("check of")]
    assert told == [
        f"check of {MODEL}: 100% on the GPU, right answer",
        f"check of {MODEL}: 0% on the GPU, right answer",
    ]
