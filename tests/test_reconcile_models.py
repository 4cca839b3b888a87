"""What the model Job makes of a server: what was declared, and nothing of anybody else's."""

import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import model_house
import pull_models
import pytest
import reconcile_models
from fake_ollama import FakeOllama, error, serving, sha
from model_house import House, Model
from model_ledger import Ledger

TOO_NEW = "pull model manifest: 412: x requires a newer version of Ollama"
VARIANT: dict[str, Any] = {"base": "a:1b", "system": "Be short.", "parameters": {"num_ctx": 4096}}


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOllama]:
    """A server, and the program's settings for it."""
    with serving() as server:
        for module in (pull_models, reconcile_models):
            monkeypatch.setattr(module, "HOST", server.url.removeprefix("http://"))
            monkeypatch.setattr(module, "FOLDER", tmp_path)
        monkeypatch.setattr(pull_models, "BACKOFF", 0.001)
        monkeypatch.setattr(pull_models, "WAIT", 1.0)
        # A handler of this process would outlive the test.
        monkeypatch.setattr("signal.signal", lambda *_: None)
        yield server


class Told(list[str]):
    """What the program said, and its exit code."""

    code = 0

    def plan(self) -> list[str]:
        """The lines of the plan."""
        return [line.removeprefix("plan: ") for line in self if line.startswith("plan: ")]


Job = Callable[..., Told]


@pytest.fixture
def job(ollama: FakeOllama, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Job:
    """Run the program for a list of models: names, or names with what else is declared."""

    def run(*models: str | dict[str, Any], dry: bool = False) -> Told:
        declared = tmp_path / "declared.json"
        whole = [{"name": model} if isinstance(model, str) else model for model in models]
        declared.write_text(json.dumps(whole))
        ollama.asked.clear()
        code = reconcile_models.main(["--dry-run"] * dry + [str(declared)])
        told = Told(capsys.readouterr().out.splitlines())
        told.code = code
        return told

    return run


def changes(ollama: FakeOllama) -> list[str]:
    """What the program has asked to be changed, in order."""
    return [f"{path[5:]} {body.get('model') or body['destination']}" for path, body in ollama.asked]


def test_a_second_run_changes_nothing(ollama: FakeOllama, job: Job) -> None:
    models = ("a:1b", {"name": "mine:1b", **VARIANT})
    assert job(*models).code == 0
    assert changes(ollama) == ["pull a:1b", "create mine:1b"]
    before = dict(ollama.models)

    told = job(*models)

    assert (told.code, told.plan(), changes(ollama)) == (0, [], [])
    assert ollama.models == before
    assert told[-1] == "as declared: 2 models; nothing was to be changed"


def test_only_what_the_program_added_is_deleted(ollama: FakeOllama, job: Job) -> None:
    ollama.put("by-hand:1b")
    ollama.put("before:1b")
    job("a:1b", "before:1b", "b:1b")

    told = job("a:1b")

    assert told.code == 0
    assert set(ollama.models) == {"a:1b", "by-hand:1b", "before:1b"}
    assert told.plan() == [
        "delete b:1b: was added by this program, is declared no longer",
        "keep before:1b: was not added by this program",
        "keep by-hand:1b: was not added by this program",
    ]
    assert told[-1] == "as declared: 1 models; 1 deleted"


def test_what_a_person_pulled_again_is_the_persons(ollama: FakeOllama, job: Job) -> None:
    job("a:1b", "b:1b")
    ollama.put("b:1b")  # the same content, at another time

    assert job("a:1b").code == 0
    assert "b:1b" in ollama.models
    # Nor is it deleted once it was declared and taken off again.
    job("a:1b", "b:1b")
    job("a:1b")
    assert "b:1b" in ollama.models


def test_a_model_that_a_person_removed_is_forgotten(ollama: FakeOllama, job: Job) -> None:
    job("a:1b", "b:1b")
    del ollama.models["b:1b"]

    assert job("a:1b").code == 0
    ollama.put("b:1b")
    job("a:1b")

    assert "b:1b" in ollama.models


@pytest.mark.parametrize("reason", [TOO_NEW, "pull model manifest: file does not exist"])
def test_nothing_is_deleted_while_something_failed(
    ollama: FakeOllama, job: Job, reason: str
) -> None:
    job("a:1b", "b:1b")
    ollama.replies["c:1b"] = [error(reason)]

    told = job("a:1b", "c:1b")

    assert told.code == 1
    assert "b:1b" in ollama.models
    assert "b:1b: not deleted, because something failed" in told
    assert told[-1].startswith("failed on Ollama 0.30.3: c:1b - ")

    assert job("a:1b", "c:1b").code == 0
    assert set(ollama.models) == {"a:1b", "c:1b"}


def test_a_dry_run_says_it_all_and_does_nothing(
    ollama: FakeOllama, job: Job, tmp_path: Path
) -> None:
    job("a:1b", "b:1b")
    models, ledger = dict(ollama.models), (tmp_path / "models.json").read_text()

    wanted = {"name": "a:1b", "digest": "0" * 64, "load": True}
    told = job(wanted, "c:1b", {"name": "mine:1b", **VARIANT}, dry=True)

    assert told.code == 0
    assert told.plan() == [
        f"pull a:1b: is {sha('a:1b')}, declared is {'0' * 64}",
        "pull c:1b: not there",
        "make mine:1b from a:1b: not there",
        "load a:1b",
        "delete b:1b: was added by this program, is declared no longer",
    ]
    assert told[-1] == "dry run: nothing of this was done, 5 lines"
    assert (ollama.models, ollama.asked) == (models, [])
    assert (tmp_path / "models.json").read_text() == ledger


def test_a_wrong_digest_fails_and_what_was_pulled_stays(ollama: FakeOllama, job: Job) -> None:
    told = job({"name": "a:1b", "digest": "0" * 64})

    assert told.code == 1
    assert f"a:1b - the registry has {sha('a:1b')}, declared is {'0' * 64}" in told[-1]
    assert set(ollama.models) == {"a:1b"}
    # It is the program's: with the model off the list it goes.
    job("b:1b")
    assert set(ollama.models) == {"b:1b"}


@pytest.mark.parametrize("by_hand", [False, True])
def test_another_digest_is_pulled_and_a_wrong_one_brings_the_old_model_back(
    ollama: FakeOllama, job: Job, by_hand: bool
) -> None:
    if by_hand:
        ollama.put("a:1b", sha("old"))
    ollama.registry["a:1b"] = sha("old")
    job("a:1b")
    ollama.registry["a:1b"] = sha("newest")

    told = job({"name": "a:1b", "digest": sha("new")})
    assert told.code == 1
    assert f"a:1b - the registry has {sha('newest')}, declared is {sha('new')}" in told[-1]
    assert {name: digest for name, (digest, _) in ollama.models.items()} == {"a:1b": sha("old")}

    told = job({"name": "a:1b", "digest": sha("newest")})
    assert told.code == 0
    assert {name: digest for name, (digest, _) in ollama.models.items()} == {"a:1b": sha("newest")}

    job("b:1b")
    assert ("a:1b" in ollama.models) == by_hand


def test_a_model_whose_new_content_cannot_be_pulled_is_the_old_one(
    ollama: FakeOllama, job: Job
) -> None:
    job("a:1b")
    ollama.replies["a:1b"] = [error(TOO_NEW)]

    assert job({"name": "a:1b", "digest": sha("new")}).code == 1

    assert {name: digest for name, (digest, _) in ollama.models.items()} == {"a:1b": sha("a:1b")}


def test_a_variant_is_made_again_when_its_lines_or_its_base_change(
    ollama: FakeOllama, job: Job
) -> None:
    variant = {"name": "mine:1b", **VARIANT}
    job("a:1b", variant)
    assert ollama.asked[-1][1] == {
        "model": "mine:1b",
        "from": "a:1b",
        "system": "Be short.",
        "parameters": {"num_ctx": 4096},
    }

    job("a:1b", variant | {"system": "Be long."})
    assert changes(ollama) == ["create mine:1b"]
    ollama.registry["a:1b"] = sha("new")
    job({"name": "a:1b", "digest": sha("new")}, variant | {"system": "Be long."})
    assert changes(ollama)[-1] == "create mine:1b"

    job("a:1b")
    assert set(ollama.models) == {"a:1b"}


def test_what_a_person_made_is_not_overwritten_by_a_variant(ollama: FakeOllama, job: Job) -> None:
    ollama.put("mine:1b", sha("a person's"))

    told = job("a:1b", {"name": "mine:1b", **VARIANT})

    assert told.code == 1
    assert "mine:1b - is there, but was not made by this program: remove or rename it" in told[-1]
    assert ollama.models["mine:1b"][0] == sha("a person's")


def test_a_variant_without_its_base_is_not_left_to_ollama(ollama: FakeOllama, job: Job) -> None:
    ollama.replies["a:1b"] = [error(TOO_NEW)]

    told = job("a:1b", {"name": "mine:1b", **VARIANT})

    assert (told.code, changes(ollama)) == (1, ["pull a:1b"])
    assert "mine:1b - a:1b, which it is made from, is not there" in told[-1]


def test_a_variant_that_became_a_model_of_a_registry_is_pulled(
    ollama: FakeOllama, job: Job
) -> None:
    job("a:1b", {"name": "b:1b", **VARIANT})

    assert job("a:1b", "b:1b").code == 0
    assert ollama.models["b:1b"][0] == sha("b:1b")
    assert job("a:1b").code == 0
    assert set(ollama.models) == {"a:1b"}


def test_a_variant_that_could_not_be_replaced_is_one_for_the_next_try_too(
    ollama: FakeOllama, job: Job
) -> None:
    job("a:1b", "c:1b", {"name": "b:1b", **VARIANT})
    missing = "pull model manifest: file does not exist"
    ollama.replies["b:1b"] = [error(missing), error(missing)]

    assert [job("a:1b", "b:1b").code, job("a:1b", "b:1b").code] == [1, 1]
    assert set(ollama.models) == {"a:1b", "b:1b", "c:1b"}


@pytest.mark.parametrize(
    ("declared", "asked"),
    [
        ({}, {}),
        ({"keep_alive": "2h"}, {"keep_alive": "2h"}),
        ({"keep_alive": "-1"}, {"keep_alive": -1}),
    ],
)
def test_a_model_is_loaded_for_as_long_as_declared(
    ollama: FakeOllama, job: Job, declared: dict[str, str], asked: dict[str, Any]
) -> None:
    told = job({"name": "a:1b", "load": True, **declared}, "b:1b")

    assert ollama.asked[-1] == ("/api/generate", {"model": "a:1b", "stream": False, **asked})
    assert re.fullmatch(r"a:1b: loaded in 0:00:0\d", told[-4])


def test_a_model_that_cannot_be_loaded_is_a_failure(ollama: FakeOllama, job: Job) -> None:
    job("a:1b", "b:1b")
    ollama.refusals["/api/generate"] = "model requires more system memory (9 GiB) than is available"

    told = job({"name": "a:1b", "load": True})

    assert told.code == 1
    assert "requires more system memory" in told[-1]
    assert "b:1b" in ollama.models


def test_a_model_that_could_not_be_deleted_is_deleted_by_the_next_run(
    ollama: FakeOllama, job: Job
) -> None:
    job("a:1b", "b:1b")
    ollama.refusals["/api/delete"] = "busy"

    told = job("a:1b")
    assert told.code == 1
    assert told[-1] == 'failed on Ollama 0.30.3: b:1b - HTTP 500: {"error": "busy"}'

    ollama.refusals.clear()
    assert job("a:1b").code == 0
    assert set(ollama.models) == {"a:1b"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a:1b": {"digest": "", "who": "me"}}'])
def test_a_ledger_that_cannot_be_read_stops_everything(
    ollama: FakeOllama, job: Job, tmp_path: Path, text: str
) -> None:
    (tmp_path / "models.json").write_text(text)

    told = job("a:1b")

    assert (told.code, ollama.asked) == (1, [])
    assert told[-1].startswith(f"failed: {tmp_path / 'models.json'}: no ledger of models (")


def test_a_ledger_that_cannot_be_written_is_a_line_and_the_old_one_stays(
    ollama: FakeOllama, job: Job, tmp_path: Path
) -> None:
    job("a:1b")
    (tmp_path / "models.partial").mkdir()

    told = job("a:1b", "b:1b")

    assert told.code == 1
    assert f"b:1b - {tmp_path / 'models.json'}: Is a directory" in told[-1]
    (tmp_path / "models.partial").rmdir()
    job("c:1b")
    # It was pulled, but nobody knows any more by whom.
    assert set(ollama.models) == {"b:1b", "c:1b"}


def test_two_runs_at_once_are_one_after_the_other(job: Job, tmp_path: Path) -> None:
    ended = []

    def end(other: IO[str]) -> None:
        ended.append(other)
        fcntl.flock(other, fcntl.LOCK_UN)

    with (tmp_path / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(1, end, [other]).start()
        told = job("a:1b")
        assert ended

    assert told[0] == "waiting for another run, which works on the same models"
    assert told.code == 0


class Killed(BaseException):
    """The program is gone."""


def steps(monkeypatch: pytest.MonkeyPatch, last: int) -> list[str]:
    """Let the program end at its step number `last`, and keep the names of those before.

    A step is the moment before or after each write of the ledger and each request for a change.
    """
    taken: list[str] = []

    def step(name: str) -> None:
        taken.append(name)
        if len(taken) > last:
            raise Killed

    def around(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            step(f"before {name}")
            done = work(*args, **more)
            step(f"after {name}")
            return done

        return wrapped

    monkeypatch.setattr(Ledger, "_write", around("ledger", Ledger._write))
    monkeypatch.setattr(model_house, "pull", around("pull", pull_models.pull))
    monkeypatch.setattr(model_house, "follow", around("make", pull_models.follow))
    for method in ("_copy", "_delete"):
        monkeypatch.setattr(House, method, around(method, getattr(House, method)))
    return taken


def test_killed_at_any_step_it_goes_on_and_loses_nothing(
    ollama: FakeOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [Model(name="a:1b"), Model(name="b:1b"), Model(name="mine:1b", **VARIANT)]
    changed = {**VARIANT, "base": "b:1b", "system": "Be long."}
    second = [
        Model(name="b:1b", digest=sha("b")),
        Model(name="c:1b"),
        Model(name="hand:1b", digest=sha("hand")),
        Model(name="mine:1b", **changed),
        Model(name="yours:1b", **changed),
    ]
    monkeypatch.setattr(os, "fsync", lambda _: None)
    ends: list[str] = []
    for last in range(100):
        ollama.models.clear()
        ollama.registry = {}
        (tmp_path / "models.json").unlink(missing_ok=True)
        ollama.put("by-hand:1b")
        ollama.put("hand:1b")
        House(first, Ledger(tmp_path)).carry_out()
        ollama.registry = {"b:1b": sha("b"), "hand:1b": sha("hand")}

        with monkeypatch.context() as patch:
            taken = steps(patch, last)
            try:
                House(second, Ledger(tmp_path)).carry_out()
                break
            except Killed:
                ends.append(taken[-1])
        # Whatever happened, each model that was there is there as it was, or as declared.
        whole = {digest for digest, _ in ollama.models.values()}
        assert ollama.models["b:1b"][0] in (sha("b:1b"), sha("b"))
        assert ollama.models["hand:1b"][0] in (sha("hand:1b"), sha("hand"))
        assert "mine:1b" in ollama.models
        assert sha("by-hand:1b") in whole

        house = House(second, Ledger(tmp_path))
        house.carry_out()
        assert house.failed == {}, ends[-1]
        wanted = {"b:1b", "c:1b", "hand:1b", "mine:1b", "yours:1b", "by-hand:1b"}
        assert set(ollama.models) == wanted, ends[-1]
        assert ollama.models["b:1b"][0] == sha("b")
        again = House(second, Ledger(tmp_path))
        assert [line for line in again.plan() if not line.startswith("keep ")] == [], ends[-1]

        # What persons had is there when nothing is declared any more; and what arrived in the
        # moment of the kill, because nobody saw by whom.
        House([], Ledger(tmp_path)).carry_out()
        unseen = {"b:1b", "c:1b"} & set(ollama.models) if "after pull" in taken[-2:] else set()
        assert set(ollama.models) == {"hand:1b", "by-hand:1b", *unseen}, ends[-1]

    assert len(ends) > 30
    assert {"before pull", "after make", "before _copy", "after _delete"} <= set(ends)
