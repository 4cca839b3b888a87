"""The model Job with a scripted Ollama: models are in sync, or one line has the errors.

Models that the Job did not add are never deleted, and never replaced by a variant.
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
from fake_ollama import FakeOllama, error, layer, sha, silence, status, stream
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


class Server(FakeOllama):
    """A scripted Ollama, on which the Job runs with a ledger in `folder`."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def run(
        self, *models: str | dict[str, Any], refreshed: str = "", dry_run: bool = False
    ) -> tuple[int, list[str]]:
        """Run the Job for these models; return exit code and lines."""
        file = self.folder / "declared.json"
        declared = [{"name": model} if isinstance(model, str) else model for model in models]
        file.write_text(json.dumps({"models": declared, "refreshed": refreshed}))
        self.requests.clear()
        code = sync_models.main(["--dry-run"] * dry_run + [str(file)])
        return code, self.capsys.readouterr().out.splitlines()

    def changes(self) -> list[str]:
        """Return the requests of the last run, as `pull a:1b`."""
        return [f"{path.removeprefix('/api/')} {body['model']}" for path, body in self.requests]


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Server]:
    """A server without models; the Job has short timeouts."""
    server = Server()
    server.folder, server.capsys = tmp_path, capsys
    monkeypatch.setenv("OLLAMA_URL", server.url)
    monkeypatch.setenv("MANAGE_TOKEN", fake_ollama.TOKEN)
    monkeypatch.setenv("LEDGER_FOLDER", str(tmp_path))
    monkeypatch.setattr(ollama_client, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(ollama_client, "STALL", 1.5)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # a handler would outlive the test
    yield server
    server.server.close()


def test_a_missing_model_is_pulled_and_its_digest_logged(server: Server) -> None:
    server.put("c:latest")

    code, lines = server.run("a:1b", "Library/C", {"name": "b:1b", "digest": sha("b:1b")})

    assert (code, server.changes()) == (0, ["pull a:1b", "pull b:1b"])
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


def test_a_variant_is_created_on_every_run_and_follows_its_base(server: Server) -> None:
    server.run("a:1b", VARIANT, refreshed="first")
    before = {name: digest for name, (digest, _) in server.models.items()}

    code, _ = server.run("a:1b", VARIANT, refreshed="first")

    assert (code, server.changes()) == (0, ["create mine:1b"])
    assert {name: digest for name, (digest, _) in server.models.items()} == before
    assert server.requests[-1][1] == {
        "model": "mine:1b",
        "from": "a:1b",
        "system": "Be short.",
        "template": "",
        "parameters": {"num_ctx": 4096},
    }
    server.registry["a:1b"] = sha("new")
    assert server.run("a:1b", VARIANT, refreshed="now")[0] == 0
    assert server.models["mine:1b"][0] != before["mine:1b"]


def test_another_value_of_refreshed_pulls_every_tag_once(server: Server) -> None:
    server.put("hand:1b")
    pinned = {"name": "pinned:1b", "digest": sha("pinned:1b")}
    models = ("a:1b", "hand:1b", pinned)
    server.run(*models)
    server.registry = {name: sha(f"new {name}") for name in ("a:1b", "hand:1b", "pinned:1b")}

    code, lines = server.run(*models, refreshed="2026-12-01")

    assert (code, server.changes()) == (0, ["pull a:1b", "pull hand:1b"])
    assert lines[0] == "a:1b: pull: ollama.refreshed: 2026-12-01"
    assert server.models["a:1b"][0] == sha("new a:1b")
    assert server.run(*models, refreshed="2026-12-01")[0] == server.run(*models)[0] == 0
    assert server.changes() == []
    # Refreshing a model does not make it the Job's.
    server.run("b:1b")
    assert set(server.models) == {"hand:1b", "b:1b"}


def test_refreshed_is_recorded_only_after_all_pulls_succeeded(server: Server) -> None:
    server.run("a:1b", "b:1b")
    server.replies["b:1b"] = [NO_SUCH_MODEL]

    assert server.run("a:1b", "b:1b", refreshed="now")[0] == 1
    assert server.run("a:1b", "b:1b", refreshed="now")[0] == 0

    assert server.changes() == ["pull a:1b", "pull b:1b"]


@pytest.mark.parametrize("by_hand", [True, False])
def test_another_digest_is_pulled_and_a_mismatch_is_one_line(server: Server, by_hand: bool) -> None:
    if by_hand:
        server.put("a:1b", sha("old"))
    server.registry["a:1b"] = sha("old")
    server.run("a:1b")
    server.registry["a:1b"] = sha("newest")

    code, lines = server.run({"name": "a:1b", "digest": sha("new"), "load": True}, VARIANT)
    # It is not loaded, and no variant is created from it.
    assert (code, server.changes()) == (1, ["pull a:1b"])
    wrong, variant = lines[-1].split("; ")
    assert wrong.startswith(f"failed: a:1b: digest: got {sha('newest')}, want {sha('new')}: ")
    assert variant == "mine:1b: base a:1b is missing"

    assert server.run({"name": "a:1b", "digest": sha("newest")})[0] == 0
    assert server.changes() == []
    server.run("b:1b")
    assert ("a:1b" in server.models) == by_hand


def test_only_what_the_job_added_is_deleted(server: Server) -> None:
    server.put("by-hand:1b")
    server.put("before:1b")
    server.run("a:1b", "before:1b", "b:1b", "again:1b", VARIANT)
    server.put("again:1b")  # pulled again by a person, with the same digest

    code, lines = server.run("a:1b")

    assert (code, server.changes()) == (0, ["delete b:1b", "delete mine:1b"])
    assert [line for line in lines if "kept" in line] == [
        f"{name}:1b: kept: not added by this Job" for name in ("again", "before", "by-hand")
    ]
    # Declaring a person's model for a while does not make it the Job's.
    server.put("b:1b")
    server.run("a:1b", "again:1b", "b:1b")
    server.run("a:1b")
    assert {"again:1b", "b:1b"} <= set(server.models)


def test_nothing_is_deleted_if_a_pull_failed(server: Server) -> None:
    server.run("a:1b", "b:1b")
    server.replies["c:1b"] = [NO_SUCH_MODEL]
    assert server.run("c:1b")[0] == 1
    assert {"a:1b", "b:1b"} <= set(server.models)
    server.refusals["/api/delete"] = "busy"
    assert server.run("a:1b", "c:1b")[1][-1] == "failed: b:1b: HTTP 500: busy"
    server.refusals.clear()

    assert server.run("c:1b")[0] == 0

    assert set(server.models) == {"c:1b"}


def test_a_dry_run_prints_every_step_and_changes_nothing(server: Server) -> None:
    server.run("a:1b", "b:1b", "d:1b")
    server.put("by-hand:1b")
    models, ledger = dict(server.models), (server.folder / "models.json").read_text()
    other_digest = {"name": "a:1b", "digest": "0" * 64, "load": True}

    code, lines = server.run(other_digest, "c:1b", "d:1b", VARIANT, refreshed="now", dry_run=True)

    assert (code, server.requests, server.models) == (0, [], models)
    assert (server.folder / "models.json").read_text() == ledger
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
def test_a_variant_never_replaces_a_persons_model(server: Server, dry_run: bool) -> None:
    server.put("mine:1b", sha("a person's"))

    code, lines = server.run("a:1b", VARIANT, dry_run=dry_run)

    assert code == 1
    assert lines[-1].startswith("failed: mine:1b: already exists, not created by this Job")
    assert server.models["mine:1b"][0] == sha("a person's")


def test_a_variant_that_could_not_be_created_is_not_recorded_as_the_jobs(server: Server) -> None:
    server.refusals["/api/create"] = "template error: unclosed action"
    assert server.run("a:1b", VARIANT)[1][-1] == (
        "failed: mine:1b: HTTP 500: template error: unclosed action"
    )
    server.refusals.clear()
    server.put("mine:1b", sha("a person's"))

    assert server.run("a:1b", VARIANT)[0] == 1

    assert server.models["mine:1b"][0] == sha("a person's")


def test_an_unfinished_variant_that_is_no_longer_declared_is_forgotten(server: Server) -> None:
    killed = {"refreshed": "", "models": {"mine:1b": ["", "", 0, "a:1b"]}}
    (server.folder / "models.json").write_text(json.dumps(killed))
    server.run("a:1b")
    server.put("mine:1b")

    assert server.run("a:1b")[0] == 0

    assert "mine:1b" in server.models


def test_a_model_may_become_a_variant_and_a_model_again(server: Server) -> None:
    server.run("a:1b", "mine:1b")
    assert server.run("a:1b", VARIANT)[0] == 0
    assert server.models["mine:1b"][0] != sha("mine:1b")

    assert server.run("a:1b", "mine:1b")[0] == 0

    assert server.models["mine:1b"][0] == sha("mine:1b")


@pytest.mark.parametrize(
    ("keep_alive", "options"),
    [("", {}), ("2h", {"keep_alive": "2h"}), ("-1", {"keep_alive": -1})],
)
def test_a_model_is_loaded_with_its_keep_alive(
    server: Server, keep_alive: str, options: dict[str, Any]
) -> None:
    assert server.run({"name": "a:1b", "load": True, "keep_alive": keep_alive}, "b:1b")[0] == 0
    assert server.requests[-1] == ("/api/generate", {"model": "a:1b", "stream": False, **options})

    server.refusals["/api/generate"] = "model requires more system memory (9 GiB)"
    assert server.run({"name": "a:1b", "load": True})[1][-1] == (
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
TEMPORARY = {
    "500": status(500, "oops"),
    "429": status(429, "slow down"),
    "429-in-the-stream": error("pull model manifest: 429: slow down"),
    "408-in-the-stream": error("pull model manifest: 408: too slow"),
    "503-in-the-stream": error("pull model manifest: 503: busy"),
    # The signed URL of a blob has expired; the next attempt gets another.
    "403-of-a-blob": error("max retries exceeded: unexpected status code 403"),
    "offline": error('Get "https://r2.example/blob?X-Amz-Signature=5ec7e7": i/o timeout'),
    "mismatch": error("digest mismatch, file must be downloaded again"),
    "silence": silence,
    # Ollama repeats the line of progress every 60 ms without progress (server/download.go).
    "standstill": stream(layer(9), *[layer(7), layer(8)] * 20, SUCCESS, pause=0.1, listed=False),
    "cut": stream(MANIFEST, layer(9), cut=True),
    "cut-within-a-line": stream(MANIFEST, b'{"status":"pul', cut=True),
    "end-without-success": stream(MANIFEST, layer(SIZE)),
    "malformed": stream(MANIFEST, b"<html>busy</html>\n"),
}


def test_final_errors_are_reported_and_temporary_ones_retried(server: Server) -> None:
    server.replies = {f"{case}:1b": [reply] for case, (reply, _) in FINAL.items()}
    server.replies |= {f"{case}:1b": [reply] for case, reply in TEMPORARY.items()}

    code, lines = server.run(*server.replies, "good:1b")

    assert code == 1
    # Final errors are explained and not retried.
    reasons = lines[-1].removeprefix("failed: ").split("; ")
    assert len(reasons) == len(FINAL)
    for reason, (case, (_, expected)) in zip(reasons, FINAL.items(), strict=True):
        assert reason.startswith(f"{case}:1b: {expected}")
    assert {server.pulls(f"{case}:1b") for case in FINAL} == {1}
    # Temporary errors are retried, and the other models are pulled.
    assert {case: server.pulls(f"{case}:1b") for case in TEMPORARY} == dict.fromkeys(TEMPORARY, 2)
    for case in TEMPORARY:
        assert [line for line in lines if re.match(rf"{case}:1b: .*; retrying in 0.01 s", line)]
    for case in ("silence", "standstill"):
        assert f"{case}:1b: no progress for 1.5 s; retrying in 0.01 s" in lines
    assert set(server.models) == {f"{case}:1b" for case in (*TEMPORARY, "good")}
    assert "5ec7e7" not in "".join(lines)


def test_retries_are_limited(server: Server) -> None:
    server.replies["a:1b"] = [status(500, "oops")] * 9
    assert server.run("a:1b")[1][-1] == "failed: a:1b: HTTP 500: oops"
    assert server.pulls("a:1b") == 3
    server.failing_gets = 2
    assert server.run("b:1b")[0] == 0
    server.failing_gets = 99
    assert server.run("b:1b")[1][-1] == "failed: HTTP 503: busy"


def test_an_unreachable_server_is_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_URL", "http://127.0.0.1:9")

    assert (
        "failed: no valid response from http://127.0.0.1:9: [Errno 111]"
        in server.run("a:1b")[1][-1]
    )


def test_the_token_is_needed_and_never_printed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANAGE_TOKEN", "an old one")

    lines = server.run("a:1b")[1]

    assert lines[-1] == "failed: a:1b: HTTP 401: managing models needs the token"
    assert "an old one" not in "".join(lines)


def test_progress_is_the_sum_of_the_layers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_client, "PROGRESS", 0)
    half = [layer(10**9, 2 * 10**9, digest) for digest in ("one", "two")]
    more = layer(2 * 10**9, 2 * 10**9, "one")
    server.replies["a:1b"] = [stream(MANIFEST, *half, more, SUCCESS, pause=0.01)]

    lines = [line for line in server.run("a:1b")[1] if "%" in line]

    # Bytes of an earlier attempt do not count for the speed.
    assert lines[:2] == [
        "a:1b: 50 %, 1.00 of 2.00 GB, 0.0 MB/s",
        "a:1b: 50 %, 2.00 of 4.00 GB, 0.0 MB/s",
    ]
    assert re.fullmatch(r"a:1b: 75 %, 3.00 of 4.00 GB, [1-9]\d*\.\d MB/s", lines[2])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"refreshed": "", "models": {"a:1b": 1}}'])
def test_with_an_unreadable_ledger_nothing_is_requested(server: Server, text: str) -> None:
    (server.folder / "models.json").write_text(text)

    assert (
        f"{server.folder}/models.json: cannot be read, move it away: " in server.run("a:1b")[1][-1]
    )
    assert server.requests == []


def test_a_failed_write_keeps_the_old_ledger(server: Server) -> None:
    server.run("a:1b")
    before = (server.folder / "models.json").read_text()
    (server.folder / "models.partial").mkdir()

    code, lines = server.run("a:1b", "b:1b")

    assert (code, (server.folder / "models.json").read_text()) == (1, before)
    assert lines[-1] == f"failed: [Errno 21] Is a directory: '{server.folder}/models.partial'"


class KilledError(BaseException):
    """Stands for SIGKILL."""


def test_after_a_kill_at_any_step_the_next_run_completes_and_deletes_nothing_of_a_person(
    server: Server, monkeypatch: pytest.MonkeyPatch
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
        server.models.clear()
        server.registry.clear()
        (server.folder / "models.json").unlink(missing_ok=True)
        server.put("by-hand:1b")
        server.put("hand:1b")
        server.run("a:1b", "b:1b", VARIANT)
        server.registry |= {"b:1b": sha("b"), "hand:1b": sha("hand")}
        steps.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "save", around("save", Ledger.save))
            for name in ("pull", "create", "delete"):
                patch.setattr(Ollama, name, around(name, getattr(Ollama, name)))
            try:
                server.run(*changed, refreshed="now")
                break
            except KilledError:
                killed = steps[-1]
        assert {"b:1b", "hand:1b", "mine:1b", "by-hand:1b"} <= set(server.models), killed

        code, lines = server.run(*changed, refreshed="now")
        assert code == 0, (killed, lines)
        expected = {"b:1b", "c:1b", "hand:1b", "mine:1b", "yours:1b", "by-hand:1b"}
        assert set(server.models) == expected, killed
        assert server.run(*changed, refreshed="now")[0] == 0
        assert server.changes() == ["create mine:1b", "create yours:1b"], killed

        # A model that was pulled at the moment of the kill stays, too: the ledger does not have it.
        server.run("last:1b")
        unrecorded = {"b:1b", "c:1b"} & set(server.models)
        assert len(unrecorded) <= (killed in ("after pull", "before save"))
        assert set(server.models) == {"last:1b", "hand:1b", "by-hand:1b", *unrecorded}, killed

    assert len(steps) > 20
    assert limit == len(steps)


def test_the_files_of_the_config_map_are_complete_and_sigterm_ends_the_job(server: Server) -> None:
    program = deployed()["kubernetes:core/v1:ConfigMap::ollama-program"].inputs["data"]
    for name in program.keys() - {"models.json"}:
        (server.folder / name).write_text(program[name])
    file = server.folder / "declared.json"
    file.write_text(json.dumps({"models": [{"name": "a:1b"}], "refreshed": ""}))
    server.replies["a:1b"] = [silence]
    environment = {
        "OLLAMA_URL": server.url,
        "MANAGE_TOKEN": fake_ollama.TOKEN,
        "LEDGER_FOLDER": str(server.folder),
    }
    # -S: without site-packages.
    command = [sys.executable, "-S", "-u", str(server.folder / "sync_models.py"), str(file)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert eventually(lambda: server.requests or process.poll() is not None)

    process.terminate()
    out, _ = process.communicate(timeout=30)

    assert process.returncode == 1
    assert out.splitlines()[-1] == "stopped: the next run continues"
