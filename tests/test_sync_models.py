"""The model Job on a scripted Ollama: in sync afterwards, or one line that says why not.

What a person pulled or created is never deleted, and never replaced by a variant.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_ollama
import ollama_client
import pytest
import sync_models
from fake_ollama import FakeOllama, error, layer, serving, sha, status, stream
from harness import deployed
from ollama_client import Ollama
from sync_models import Ledger
from waiting import eventually

VARIANT: dict[str, Any] = {
    "name": "mine:1b",
    "base": "a:1b",
    "system": "Be short.",
    "parameters": {"num_ctx": 4096},
}
NO_SUCH_MODEL = error("pull model manifest: file does not exist")
# As recorded in ollama/ollama issue 14431.
TOO_OLD = (
    "pull model manifest: 412: \n\nThe model you are attempting to pull requires a newer version "
    "of Ollama that may be in pre-release.\n\nPlease see https://github.com/ollama/ollama/\n\n"
)

MANIFEST, SUCCESS, SIZE = fake_ollama.MANIFEST, fake_ollama.SUCCESS, fake_ollama.SIZE
SILENCE = stream(MANIFEST, pause=10)


class Lab(FakeOllama):
    """A server, and the program to run on it, with a folder for its ledger."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(
        self, *models: str | dict[str, Any], refreshed: str = "", dry_run: bool = False
    ) -> tuple[int, list[str]]:
        """Run the program for names, or objects, of models: exit code and lines."""
        file = self.folder / "declared.json"
        declared = [{"name": model} if isinstance(model, str) else model for model in models]
        file.write_text(json.dumps({"models": declared, "refreshed": refreshed}))
        self.asked.clear()
        code = sync_models.main(["--dry-run"] * dry_run + [str(file)])
        return code, self.capsys.readouterr().out.splitlines()

    def changes(self) -> list[str]:
        """What was asked for in the last run."""
        return [f"{path.removeprefix('/api/')} {body['model']}" for path, body in self.asked]


@pytest.fixture
def lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Lab]:
    """A server without models, and a program with little patience."""
    lab = Lab()
    lab.folder, lab.capsys = tmp_path, capsys
    monkeypatch.setenv("OLLAMA_URL", lab.url)
    monkeypatch.setenv("PULL_TOKEN", fake_ollama.TOKEN)
    monkeypatch.setenv("LEDGER_FOLDER", str(tmp_path))
    monkeypatch.setattr(ollama_client, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(ollama_client, "STALL", 1.5)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # it would outlive the test
    with serving(lab):
        yield lab


def test_what_is_missing_is_pulled_and_the_log_has_its_digest(lab: Lab) -> None:
    lab.put("c:latest")

    code, lines = lab.run("a:1b", "Library/C", {"name": "b:1b", "digest": sha("b:1b")})

    assert (code, lab.changes()) == (0, ["pull a:1b", "pull b:1b"])
    assert lines == [
        "a:1b: pull: missing",
        "a:1b: done in 0:00:00",
        "b:1b: pull: missing",
        "b:1b: done in 0:00:00",
        f"a:1b: 2.02 GB, digest {sha('a:1b')}",
        f"Library/C: 2.02 GB, digest {sha('c:latest')}",
        f"b:1b: 2.02 GB, digest {sha('b:1b')}",
        "all models are in sync",
    ]


def test_variants_are_created_on_every_run_and_nothing_else_changes(lab: Lab) -> None:
    lab.run("a:1b", VARIANT, refreshed="first")
    before = {name: digest for name, (digest, _) in lab.models.items()}

    code, _ = lab.run("a:1b", VARIANT, refreshed="first")

    assert (code, lab.changes()) == (0, ["create mine:1b"])
    assert {name: digest for name, (digest, _) in lab.models.items()} == before
    assert lab.asked[-1][1] == {
        "model": "mine:1b",
        "from": "a:1b",
        "system": "Be short.",
        "template": "",
        "parameters": {"num_ctx": 4096},
    }
    # It follows its base.
    lab.registry["a:1b"] = sha("new")
    assert lab.run("a:1b", VARIANT, refreshed="now")[0] == 0
    assert lab.models["mine:1b"][0] != before["mine:1b"]


def test_another_word_pulls_every_declared_tag_once(lab: Lab) -> None:
    lab.put("hand:1b")
    pinned = {"name": "pinned:1b", "digest": sha("pinned:1b")}
    models = ("a:1b", "hand:1b", pinned)
    lab.run(*models)
    lab.registry = {name: sha(f"new {name}") for name in ("a:1b", "hand:1b", "pinned:1b")}

    code, lines = lab.run(*models, refreshed="2026-12-01")

    assert (code, lab.changes()) == (0, ["pull a:1b", "pull hand:1b"])
    assert lines[0] == "a:1b: pull: ollama.refreshed: 2026-12-01"
    assert lab.models["a:1b"][0] == sha("new a:1b")
    assert lab.run(*models, refreshed="2026-12-01")[0] == lab.run(*models)[0] == 0
    assert lab.changes() == []
    # Each is still whose it was.
    lab.run("b:1b")
    assert set(lab.models) == {"hand:1b", "b:1b"}


def test_a_word_counts_only_once_all_were_pulled(lab: Lab) -> None:
    lab.run("a:1b", "b:1b")
    lab.replies["b:1b"] = [NO_SUCH_MODEL]

    assert lab.run("a:1b", "b:1b", refreshed="now")[0] == 1
    assert lab.run("a:1b", "b:1b", refreshed="now")[0] == 0

    assert lab.changes() == ["pull a:1b", "pull b:1b"]


@pytest.mark.parametrize("by_hand", [True, False])
def test_another_digest_is_pulled_in_place_and_a_wrong_one_is_one_line(
    lab: Lab, by_hand: bool
) -> None:
    if by_hand:
        lab.put("a:1b", sha("old"))
    lab.registry["a:1b"] = sha("old")
    lab.run("a:1b")
    lab.registry["a:1b"] = sha("newest")

    code, lines = lab.run({"name": "a:1b", "digest": sha("new"), "load": True}, VARIANT)
    # Neither loaded, nor anything made of it.
    assert (code, lab.changes()) == (1, ["pull a:1b"])
    wrong, variant = lines[-1].split("; ")
    assert wrong.startswith(f"failed: a:1b: digest: got {sha('newest')}, want {sha('new')}: ")
    assert variant == "mine:1b: base a:1b is missing"

    assert lab.run({"name": "a:1b", "digest": sha("newest")})[0] == 0
    assert lab.changes() == []
    lab.run("b:1b")
    assert ("a:1b" in lab.models) == by_hand


def test_only_what_the_job_added_is_deleted(lab: Lab) -> None:
    lab.put("by-hand:1b")
    lab.put("before:1b")
    lab.run("a:1b", "before:1b", "b:1b", "again:1b", VARIANT)
    lab.put("again:1b")  # the same content, pulled by a person

    code, lines = lab.run("a:1b")

    assert (code, lab.changes()) == (0, ["delete b:1b", "delete mine:1b"])
    assert [line for line in lines if "kept" in line] == [
        f"{name}:1b: kept: not added by this Job" for name in ("again", "before", "by-hand")
    ]
    # Declared and taken off again, it is still the person's; and so is one removed and pulled.
    lab.put("b:1b")
    lab.run("a:1b", "again:1b", "b:1b")
    lab.run("a:1b")
    assert {"again:1b", "b:1b"} <= set(lab.models)


def test_nothing_is_deleted_while_something_failed(lab: Lab) -> None:
    lab.run("a:1b", "b:1b")
    lab.replies["c:1b"] = [NO_SUCH_MODEL]
    assert lab.run("c:1b")[0] == 1
    assert {"a:1b", "b:1b"} <= set(lab.models)
    lab.refusals["/api/delete"] = "busy"
    assert lab.run("a:1b", "c:1b")[1][-1] == "failed: b:1b: HTTP 500: busy"
    lab.refusals.clear()

    assert lab.run("c:1b")[0] == 0

    assert set(lab.models) == {"c:1b"}


def test_a_dry_run_prints_it_all_and_changes_nothing(lab: Lab) -> None:
    lab.run("a:1b", "b:1b", "d:1b")
    lab.put("by-hand:1b")
    models, ledger = dict(lab.models), (lab.folder / "models.json").read_text()
    wanted = {"name": "a:1b", "digest": "0" * 64, "load": True}

    code, lines = lab.run(wanted, "c:1b", "d:1b", VARIANT, refreshed="now", dry_run=True)

    assert (code, lab.asked, lab.models) == (0, [], models)
    assert (lab.folder / "models.json").read_text() == ledger
    assert [line for line in lines if ", digest " not in line or "would" in line] == [
        f"a:1b: would pull: digest: got {sha('a:1b')}, want {'0' * 64}",
        "c:1b: would pull: missing",
        "d:1b: would pull: ollama.refreshed: now",
        "mine:1b: would create from a:1b",
        "a:1b: would load",
        "b:1b: would delete: no longer declared",
        "by-hand:1b: kept: not added by this Job",
        "dry run: nothing changed",
    ]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_variant_never_replaces_a_persons_model(lab: Lab, dry_run: bool) -> None:
    lab.put("mine:1b", sha("a person's"))

    code, lines = lab.run("a:1b", VARIANT, dry_run=dry_run)

    assert code == 1
    assert lines[-1].startswith("failed: mine:1b: already exists, not created by this Job")
    assert lab.models["mine:1b"][0] == sha("a person's")


def test_a_variant_that_cannot_be_created_leaves_no_claim_on_its_name(lab: Lab) -> None:
    lab.refusals["/api/create"] = "template error: unclosed action"
    assert lab.run("a:1b", VARIANT)[1][-1] == (
        "failed: mine:1b: HTTP 500: template error: unclosed action"
    )
    lab.refusals.clear()
    lab.put("mine:1b", sha("a person's"))

    assert lab.run("a:1b", VARIANT)[0] == 1

    assert lab.models["mine:1b"][0] == sha("a person's")


def test_a_claim_on_a_name_ends_with_its_declaration(lab: Lab) -> None:
    killed = {"refreshed": "", "models": {"mine:1b": ["", "", 0, "a:1b"]}}
    (lab.folder / "models.json").write_text(json.dumps(killed))
    lab.run("a:1b")
    lab.put("mine:1b")

    assert lab.run("a:1b")[0] == 0

    assert "mine:1b" in lab.models


def test_a_name_may_become_a_variant_and_a_model_of_the_registry_again(lab: Lab) -> None:
    lab.run("a:1b", "mine:1b")
    assert lab.run("a:1b", VARIANT)[0] == 0
    assert lab.models["mine:1b"][0] != sha("mine:1b")

    assert lab.run("a:1b", "mine:1b")[0] == 0

    assert lab.models["mine:1b"][0] == sha("mine:1b")


@pytest.mark.parametrize(
    ("keep_alive", "asked"),
    [("", {}), ("2h", {"keep_alive": "2h"}), ("-1", {"keep_alive": -1})],
)
def test_a_model_is_loaded_for_as_long_as_declared(
    lab: Lab, keep_alive: str, asked: dict[str, Any]
) -> None:
    assert lab.run({"name": "a:1b", "load": True, "keep_alive": keep_alive}, "b:1b")[0] == 0
    assert lab.asked[-1] == ("/api/generate", {"model": "a:1b", "stream": False, **asked})

    lab.refusals["/api/generate"] = "model requires more system memory (9 GiB)"
    assert lab.run({"name": "a:1b", "load": True})[1][-1] == (
        "failed: a:1b: HTTP 500: model requires more system memory (9 GiB)"
    )


FINAL = {
    "no-such-model": (NO_SUCH_MODEL, "model not found in the registry: check its name"),
    "412-in-the-stream": (error(TOO_OLD), "requires a newer Ollama: update ollama.image"),
    "412-as-a-status": (status(412, "no"), "requires a newer Ollama: update ollama.image"),
    "412-inside-a-500": (status(500, TOO_OLD), "requires a newer Ollama: update ollama.image"),
    "full": (error("write /x: no space left on device"), "the volume for models is full"),
    "too-large": (
        stream(MANIFEST, layer(0, 10**15)),
        "the volume for models is full: needs 1000000.00 GB",
    ),
    "unlisted": (
        stream(SUCCESS, listed=False),
        "pull succeeded, but Ollama does not list the model",
    ),
    "sharded": (
        error('pull model manifest: 400: {"error":"The repository contains sharded GGUF."}'),
        "has several files, which Ollama cannot pull: choose a tag with one file",
    ),
    "400-in-the-stream": (error("pull model manifest: 400: no"), "pull model manifest: 400: no"),
    "401-in-the-stream": (error("pull model manifest: 401: no"), "pull model manifest: 401: no"),
    "403-inside-a-500": (status(500, "pull model manifest: 403: no"), "HTTP 500: pull model"),
    "bad-request": (status(400, "invalid model name"), "HTTP 400: invalid model name"),
}
PASSING = {
    "500": status(500, "oops"),
    "429": status(429, "slow down"),
    "429-in-the-stream": error("pull model manifest: 429: slow down"),
    "408-in-the-stream": error("pull model manifest: 408: too slow"),
    "503-in-the-stream": error("pull model manifest: 503: busy"),
    # The signed address of a blob is over; the next try gets another.
    "403-of-a-blob": error("max retries exceeded: unexpected status code 403"),
    "offline": error('Get "https://r2.example/blob?X-Amz-Signature=5ec7e7": i/o timeout'),
    "mismatch": error("digest mismatch, file must be downloaded again"),
    "silence": SILENCE,
    # As in server/download.go: the same line every 60 ms, also after a part fell back.
    "standstill": stream(layer(9), *[layer(7), layer(8)] * 20, SUCCESS, pause=0.1, listed=False),
    "cut": stream(MANIFEST, layer(9), cut=True),
    "cut-within-a-line": stream(MANIFEST, b'{"status":"pul', cut=True),
    "end-without-success": stream(MANIFEST, layer(SIZE)),
    "malformed": stream(MANIFEST, b"<html>busy</html>\n"),
}


def test_one_run_meets_every_failure(lab: Lab) -> None:
    lab.replies = {f"{case}:1b": [reply] for case, (reply, _) in FINAL.items()}
    lab.replies |= {f"{case}:1b": [reply] for case, reply in PASSING.items()}

    code, lines = lab.run(*lab.replies, "good:1b")

    assert code == 1
    # What another try cannot mend is explained and not tried again.
    reasons = lines[-1].removeprefix("failed: ").split("; ")
    assert len(reasons) == len(FINAL)
    for reason, (case, (_, wanted)) in zip(reasons, FINAL.items(), strict=True):
        assert reason.startswith(f"{case}:1b: {wanted}")
    assert {lab.pulls(f"{case}:1b") for case in FINAL} == {1}
    # What may pass is tried again, and all that follows is done.
    assert {case: lab.pulls(f"{case}:1b") for case in PASSING} == dict.fromkeys(PASSING, 2)
    for case in PASSING:
        assert [line for line in lines if re.match(rf"{case}:1b: .*; retrying in 0.01 s", line)]
    assert set(lab.models) == {f"{case}:1b" for case in (*PASSING, "good")}
    assert "5ec7e7" not in "".join(lines)


def test_tries_and_waiting_end(lab: Lab) -> None:
    lab.replies["a:1b"] = [status(500, "oops")] * 9
    assert lab.run("a:1b")[1][-1] == "failed: a:1b: HTTP 500: oops"
    assert lab.pulls("a:1b") == 3
    lab.failing_gets = 2
    assert lab.run("b:1b")[0] == 0
    lab.failing_gets = 99
    assert lab.run("b:1b")[1][-1] == "failed: HTTP 503: busy"


def test_a_server_that_is_not_there_is_one_line(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_URL", "http://127.0.0.1:9")

    assert (
        "failed: no valid response from http://127.0.0.1:9: [Errno 111]" in lab.run("a:1b")[1][-1]
    )


def test_the_token_is_needed_and_never_printed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULL_TOKEN", "an old one")

    lines = lab.run("a:1b")[1]

    assert lines[-1] == "failed: a:1b: HTTP 401: managing models needs the token"
    assert "an old one" not in "".join(lines)


def test_progress_adds_up_the_layers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_client, "PROGRESS", 0)
    half = [layer(10**9, 2 * 10**9, digest) for digest in ("one", "two")]
    more = layer(2 * 10**9, 2 * 10**9, "one")
    lab.replies["a:1b"] = [stream(MANIFEST, *half, more, SUCCESS, pause=0.01)]

    lines = [line for line in lab.run("a:1b")[1] if "%" in line]

    # What is left of an earlier try is no speed.
    assert lines[:2] == [
        "a:1b: 50 %, 1.00 of 2.00 GB, 0.0 MB/s",
        "a:1b: 50 %, 2.00 of 4.00 GB, 0.0 MB/s",
    ]
    assert re.fullmatch(r"a:1b: 75 %, 3.00 of 4.00 GB, [1-9]\d*\.\d MB/s", lines[2])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"refreshed": "", "models": {"a:1b": 1}}'])
def test_a_ledger_that_cannot_be_read_stops_everything(lab: Lab, text: str) -> None:
    (lab.folder / "models.json").write_text(text)

    assert f"{lab.folder}/models.json: cannot be read, move it away: " in lab.run("a:1b")[1][-1]
    assert lab.asked == []


def test_a_ledger_that_cannot_be_written_stays_as_it_was(lab: Lab) -> None:
    lab.run("a:1b")
    before = (lab.folder / "models.json").read_text()
    (lab.folder / "models.partial").mkdir()

    code, lines = lab.run("a:1b", "b:1b")

    assert (code, (lab.folder / "models.json").read_text()) == (1, before)
    assert lines[-1] == f"failed: [Errno 21] Is a directory: '{lab.folder}/models.partial'"


class KilledError(BaseException):
    """The program is gone."""


def test_killed_at_any_step_it_goes_on_and_loses_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = VARIANT | {"base": "b:1b", "system": "Be long."}
    changed = (
        {"name": "b:1b", "digest": sha("b")},
        "c:1b",
        {"name": "hand:1b", "digest": sha("hand")},
        variant,
        variant | {"name": "yours:1b"},
    )
    steps: list[str] = []
    limit = 0

    def around(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def step(moment: str) -> None:
            steps.append(f"{moment} {name}")
            if len(steps) > limit:
                raise KilledError

        def wrapped(*args: Any) -> None:
            step("before")
            work(*args)
            step("after")

        return wrapped

    for limit in range(100):  # noqa: B007
        lab.models.clear()
        lab.registry.clear()
        (lab.folder / "models.json").unlink(missing_ok=True)
        lab.put("by-hand:1b")
        lab.put("hand:1b")
        lab.run("a:1b", "b:1b", VARIANT)
        lab.registry |= {"b:1b": sha("b"), "hand:1b": sha("hand")}
        steps.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "save", around("save", Ledger.save))
            for name in ("pull", "create", "delete"):
                patch.setattr(Ollama, name, around(name, getattr(Ollama, name)))
            try:
                lab.run(*changed, refreshed="now")
                break
            except KilledError:
                killed = steps[-1]
        assert {"b:1b", "hand:1b", "mine:1b", "by-hand:1b"} <= set(lab.models), killed

        code, lines = lab.run(*changed, refreshed="now")
        assert code == 0, (killed, lines)
        wanted = {"b:1b", "c:1b", "hand:1b", "mine:1b", "yours:1b", "by-hand:1b"}
        assert set(lab.models) == wanted, killed
        assert lab.run(*changed, refreshed="now")[0] == 0
        assert lab.changes() == ["create mine:1b", "create yours:1b"], killed

        # What persons had stays when nothing is declared any more; so does what arrived in the
        # moment of the kill, because nobody saw by whom it was pulled.
        lab.run("last:1b")
        unseen = {"b:1b", "c:1b"} & set(lab.models)
        assert len(unseen) <= (killed in ("after pull", "before save"))
        assert set(lab.models) == {"last:1b", "hand:1b", "by-hand:1b", *unseen}, killed

    assert len(steps) > 20
    assert limit == len(steps)


def test_sigterm_ends_it_at_once_and_the_pod_has_all_files_that_it_needs(lab: Lab) -> None:
    program = deployed()["kubernetes:core/v1:ConfigMap::ollama-program"].inputs["data"]
    for name in program.keys() - {"models.json"}:
        (lab.folder / name).write_text(program[name])
    file = lab.folder / "declared.json"
    file.write_text(json.dumps({"models": [{"name": "a:1b"}], "refreshed": ""}))
    lab.replies["a:1b"] = [SILENCE]
    environment = {
        "OLLAMA_URL": lab.url,
        "PULL_TOKEN": fake_ollama.TOKEN,
        "LEDGER_FOLDER": str(lab.folder),
    }
    # Without site-packages: nothing is needed but Python and these files.
    command = [sys.executable, "-S", "-u", str(lab.folder / "sync_models.py"), str(file)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert eventually(lambda: lab.asked or process.poll() is not None)

    process.terminate()
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert out.splitlines()[-1] == "stopped: the next run continues"
