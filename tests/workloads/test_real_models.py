"""The model Job on the real Ollama, with a registry of this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import Request, urlopen

import pytest
import sync_models
from harness import ROOT
from waiting import eventually

from sandbox.model_registry import FILES, model_registry
from sandbox.processes import free_ports

Model = str | dict[str, Any]
VARIANT = {
    "name": "mine:1b",
    "base": "a:1b",
    "system": "Be short.",
    "template": "{{ .System }} {{ .Prompt }}",
    "parameters": {"num_ctx": 1024, "temperature": 0.5, "stop": ["END", "FIN"]},
}


@dataclass
class Lab:
    """A server, the registry that it asks, and the ledger beside its models."""

    folder: Path
    ollama: Path
    """The program."""
    contents: dict[str, str] = field(default_factory=dict)
    """What the registry has under a name, where it is not the name's own content."""
    before: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
    """Answers a request to the registry in another way, and says whether it did."""
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.host = f"127.0.0.1:{free_ports(1)[0]}"
        self.environment |= {"OLLAMA_HOST": self.host, "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            command = [str(self.ollama), "serve"]
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

        def answers() -> bool:
            with suppress(OSError):
                return bool(self.ask("/api/version"))
            return False

        assert eventually(answers), (self.folder / "log").read_text()[-2000:]

    def kill(self) -> None:
        """End the server and its runners as a power cut does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """Ask the server; with a body it is a POST."""
        text = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://{self.host}{path}", text), timeout=60) as response:
            return dict(json.load(response))

    def by_hand(self, *arguments: str) -> None:
        """Run Ollama's own command, as a person in its pod would."""
        command = [str(self.ollama), *arguments]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def digests(self) -> dict[str, str]:
        """The digest of each model that is there."""
        return {one["name"]: one["digest"] for one in self.ask("/api/tags")["models"]}

    def answers(self, *models: str) -> bool:
        """Whether each of these models answers."""
        body = {"prompt": "Hello", "stream": False, "options": {"num_predict": 2}}
        return all(self.ask("/api/generate", {"model": m, **body})["eval_count"] for m in models)

    def begin(self, *models: Model, refreshed: str = "") -> subprocess.Popen[str]:
        """Start the program."""
        file = self.folder / "declared.json"
        declared = [{"name": model} if isinstance(model, str) else model for model in models]
        file.write_text(json.dumps({"models": declared, "refreshed": refreshed}))
        return subprocess.Popen(
            [sys.executable, "-u", sync_models.__file__, str(file)],
            env={"OLLAMA_URL": f"http://{self.host}", "LEDGER_FOLDER": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *models: Model, refreshed: str = "") -> tuple[int, list[str]]:
        """Run the program to its end: exit code and lines."""
        process = self.begin(*models, refreshed=refreshed)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out.splitlines()


@pytest.fixture
def lab(tmp_path: Path, programs: dict[str, Path]) -> Iterator[Lab]:
    """A server without models."""
    lab = Lab(
        tmp_path,
        programs["ollama"],
        environment={"PATH": "/usr/bin:/bin", "OLLAMA_CONTEXT_LENGTH": "2048"},
    )
    registry = model_registry(
        tmp_path, contents=lab.contents, before=lambda request: lab.before(request)
    )
    with registry as environment:
        lab.environment |= {"OLLAMA_LLM_LIBRARY": "cpu", "OLLAMA_NO_CLOUD": "1", **environment}
        lab.start()
        try:
            yield lab
        finally:
            lab.kill()


def test_what_is_declared_is_there_and_what_a_person_has_stays(lab: Lab) -> None:
    lab.by_hand("pull", "hand:1b")
    lab.by_hand("cp", "hand:1b", "copy:1b")
    loaded = {"name": "a:1b", "load": True, "keep_alive": "-1"}
    assert lab.run(loaded, "hand:1b", "b:1b", "c:1b", VARIANT)[0] == 0
    (running,) = lab.ask("/api/ps")["models"]
    assert running["name"] == "a:1b"
    # For ever is some centuries.
    assert int(running["expires_at"][:4]) > 2200
    shown = lab.ask("/api/show", {"model": "mine:1b"})
    assert (shown["system"], shown["template"]) == (VARIANT["system"], VARIANT["template"])
    lines = {" ".join(line.split()) for line in shown["parameters"].splitlines()}
    assert {"num_ctx 1024", "temperature 0.5", 'stop "END"', 'stop "FIN"'} <= lines
    lab.by_hand("pull", "b:1b")

    # Without a template the base's own is there again.
    code, said = lab.run(loaded, {"name": "mine:1b", "base": "a:1b", "system": "Be long."})

    assert code == 0, said
    assert set(lab.digests()) == {"a:1b", "b:1b", "copy:1b", "hand:1b", "mine:1b"}
    shown = lab.ask("/api/show", {"model": "mine:1b"})
    assert (shown["system"], shown["template"]) == ("Be long.", "{{ .Prompt }}")
    assert "num_ctx" not in shown["parameters"]
    assert lab.answers(*lab.digests())


def test_a_moved_tag_comes_with_another_word_or_digest(lab: Lab) -> None:
    assert lab.run("a:1b", "b:1b", "last:1b")[0] == 0
    old = lab.digests()
    lab.contents |= {"a": "another", "b": "another b"}
    assert lab.run("a:1b", "b:1b", "last:1b")[0] == 0
    assert lab.digests() == old

    code, said = lab.run("a:1b", {"name": "b:1b", "digest": "0" * 64}, refreshed="now")

    new = lab.digests()
    assert code == 1
    assert said[-1].startswith(f"failed: b:1b: digest: got {new['b:1b']}, want {'0' * 64}: ")
    assert not new.items() & {"a:1b": old["a:1b"], "b:1b": old["b:1b"]}.items()
    assert lab.run("a:1b", {"name": "b:1b", "digest": new["b:1b"]}, refreshed="now")[0] == 0
    assert lab.digests() == {"a:1b": new["a:1b"], "b:1b": new["b:1b"]}
    assert lab.answers("a:1b", "b:1b")


def test_it_goes_on_after_a_kill_at_any_moment(lab: Lab) -> None:
    def slow(_: BaseHTTPRequestHandler) -> bool:
        time.sleep(0.1)
        return False

    lab.by_hand("pull", "hand:1b")
    assert lab.run("a:1b", "b:1b", VARIANT)[0] == 0
    hand = lab.digests()["hand:1b"]
    lab.contents["b"] = "another"
    lab.before = slow
    models = ("b:1b", "c:1b", "d:1b", VARIANT | {"base": "b:1b"})
    random, codes = Random(6), []
    for turn in range(12):
        process = lab.begin(*models, refreshed="now")
        time.sleep(random.uniform(0.1, 1.2))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        if turn % 3 == 2:
            lab.kill()
            lab.start()
        assert lab.digests()["hand:1b"] == hand

    code, said = lab.run(*models, refreshed="now")

    assert -9 in codes
    assert code == 0, said
    wanted = {"b:1b", "c:1b", "d:1b", "mine:1b", "hand:1b"}
    assert wanted <= set(lab.digests())
    assert lab.answers(*wanted)


def test_the_same_weights_are_in_memory_once(lab: Lab) -> None:
    """By which the plan counts: a variant shares them, or with another context ends the other."""
    base: dict[str, Any] = {"name": "a:1b", "load": True, "keep_alive": "-1"}
    same: Model = {**base, "name": "same:1b", "base": "a:1b", "system": "Be short."}
    wide: Model = {**base, "name": "wide:1b", "base": "a:1b", "parameters": {"num_ctx": 1024}}

    def contexts() -> list[int]:
        return [one["context_length"] for one in lab.ask("/api/ps")["models"]]

    assert lab.run(base)[0] == 0
    (tokens,) = contexts()
    assert lab.run(base, same)[0] == 0
    assert contexts() == [tokens]
    assert lab.run(base, same, wide)[0] == 0
    assert contexts() == [1024] != [tokens]


def test_what_a_download_left_is_freed_by_the_runbook_alone(lab: Lab) -> None:
    """`ollama ls` does not show it, and no start of Ollama removes it."""

    def left() -> list[Path]:
        return [*lab.folder.rglob("*-partial*")]

    def slow(request: BaseHTTPRequestHandler) -> bool:
        time.sleep(5 if request.headers["Host"] == FILES and request.command == "GET" else 0)
        return False

    lab.before = slow
    process = lab.begin("a:1b", "b:1b")
    assert eventually(left)
    process.kill()
    process.communicate()
    lab.before = lambda _: False
    assert lab.run("b:1b")[0] == 0
    lab.kill()
    lab.start()
    assert left()
    [command] = re.findall(r"-- (find .* -delete)", (ROOT / "docs/runbook.md").read_text())
    # As if it was an hour ago.
    shell = command.replace("/data/models", str(lab.folder)).replace("-mmin +60", "-mmin -60")

    subprocess.run(["sh", "-c", shell], check=True)

    assert left() == []
    assert lab.run("a:1b", "b:1b")[0] == 0
    assert lab.answers("a:1b", "b:1b")
