"""The model Job with the real Ollama, and a local registry."""

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
    """An Ollama with a registry, and a folder for the Job's ledger."""

    folder: Path
    ollama: Path
    """The program."""
    contents: dict[str, str] = field(default_factory=dict)
    """Contents in the registry by name; by default the name itself."""
    before: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False
    """Called with each request to the registry; returns whether it answered the request."""
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
        """Send SIGKILL to the server and its runners."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        """Send a GET request, or a POST with a body; return the JSON of the response."""
        text = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://{self.host}{path}", text), timeout=60) as response:
            return dict(json.load(response))

    def by_hand(self, *arguments: str) -> None:
        """Run Ollama's CLI, as a person in its pod does."""
        command = [str(self.ollama), *arguments]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def digests(self) -> dict[str, str]:
        """Return the digest of each model."""
        return {model["name"]: model["digest"] for model in self.ask("/api/tags")["models"]}

    def answers(self, *models: str) -> bool:
        """Return whether each of these models answers."""
        body = {"prompt": "Hello", "stream": False, "options": {"num_predict": 2}}
        return all(self.ask("/api/generate", {"model": m, **body})["eval_count"] for m in models)

    def begin(self, *models: Model, refreshed: str = "") -> subprocess.Popen[str]:
        """Start the Job."""
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
        """Run the Job; return exit code and lines."""
        process = self.begin(*models, refreshed=refreshed)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out.splitlines()


@pytest.fixture
def server(tmp_path: Path, programs: dict[str, Path]) -> Iterator[Lab]:
    """An Ollama without models."""
    server = Lab(
        tmp_path,
        programs["ollama"],
        environment={"PATH": "/usr/bin:/bin", "OLLAMA_CONTEXT_LENGTH": "2048"},
    )
    registry = model_registry(
        tmp_path, contents=server.contents, before=lambda request: server.before(request)
    )
    with registry as environment:
        server.environment |= {"OLLAMA_LLM_LIBRARY": "cpu", "OLLAMA_NO_CLOUD": "1", **environment}
        server.start()
        try:
            yield server
        finally:
            server.kill()


def test_declared_models_are_in_sync_and_other_models_stay(server: Lab) -> None:
    server.by_hand("pull", "hand:1b")
    server.by_hand("cp", "hand:1b", "copy:1b")
    loaded = {"name": "a:1b", "load": True, "keep_alive": "-1"}
    assert server.run(loaded, "hand:1b", "b:1b", "c:1b", VARIANT)[0] == 0
    (running,) = server.ask("/api/ps")["models"]
    assert running["name"] == "a:1b"
    # Ollama's expiry for a negative keep_alive is centuries away.
    assert int(running["expires_at"][:4]) > 2200
    details = server.ask("/api/show", {"model": "mine:1b"})
    assert (details["system"], details["template"]) == (VARIANT["system"], VARIANT["template"])
    lines = {" ".join(line.split()) for line in details["parameters"].splitlines()}
    assert {"num_ctx 1024", "temperature 0.5", 'stop "END"', 'stop "FIN"'} <= lines
    server.by_hand("pull", "b:1b")

    # Without a template, the variant has its base's.
    code, output = server.run(loaded, {"name": "mine:1b", "base": "a:1b", "system": "Be long."})

    assert code == 0, output
    assert set(server.digests()) == {"a:1b", "b:1b", "copy:1b", "hand:1b", "mine:1b"}
    details = server.ask("/api/show", {"model": "mine:1b"})
    assert (details["system"], details["template"]) == ("Be long.", "{{ .Prompt }}")
    assert "num_ctx" not in details["parameters"]
    assert server.answers(*server.digests())


def test_a_moved_tag_is_pulled_with_another_refreshed_or_digest(server: Lab) -> None:
    assert server.run("a:1b", "b:1b", "last:1b")[0] == 0
    old = server.digests()
    server.contents |= {"a": "another", "b": "another b"}
    assert server.run("a:1b", "b:1b", "last:1b")[0] == 0
    assert server.digests() == old

    code, lines = server.run("a:1b", {"name": "b:1b", "digest": "0" * 64}, refreshed="now")

    new = server.digests()
    assert code == 1
    assert lines[-1].startswith(f"failed: b:1b: digest: got {new['b:1b']}, want {'0' * 64}: ")
    assert not new.items() & {"a:1b": old["a:1b"], "b:1b": old["b:1b"]}.items()
    assert server.run("a:1b", {"name": "b:1b", "digest": new["b:1b"]}, refreshed="now")[0] == 0
    assert server.digests() == {"a:1b": new["a:1b"], "b:1b": new["b:1b"]}
    assert server.answers("a:1b", "b:1b")


@pytest.mark.faults
def test_after_kills_at_random_moments_the_next_run_completes(server: Lab) -> None:
    def slow(_: BaseHTTPRequestHandler) -> bool:
        time.sleep(0.1)
        return False

    def hand() -> str:
        with suppress(OSError):
            return server.digests()["hand:1b"]
        # A pull that is cut off as it begins ends Ollama (ollama#17370); a kubelet restarts it.
        server.process.wait(10)
        assert "(*blobDownload).release" in (server.folder / "log").read_text()
        server.start()
        return server.digests()["hand:1b"]

    server.by_hand("pull", "hand:1b")
    assert server.run("a:1b", "b:1b", VARIANT)[0] == 0
    before = hand()
    server.contents["b"] = "another"
    server.before = slow
    models = ("b:1b", "c:1b", "d:1b", VARIANT | {"base": "b:1b"})
    random, codes = Random(6), []
    for turn in range(12):
        process = server.begin(*models, refreshed="now")
        time.sleep(random.uniform(0.1, 1.2))
        process.kill()
        process.communicate()
        codes.append(process.returncode)
        if turn % 3 == 2:
            server.kill()
            server.start()
        assert hand() == before

    code, lines = server.run(*models, refreshed="now")

    assert -9 in codes
    assert code == 0, lines
    expected = {"b:1b", "c:1b", "d:1b", "mine:1b", "hand:1b"}
    assert expected <= set(server.digests())
    assert server.answers(*expected)


def test_a_variant_shares_the_loaded_weights_unless_its_context_differs(server: Lab) -> None:
    """The capacity plan counts loaded models in this way."""
    base: dict[str, Any] = {"name": "a:1b", "load": True, "keep_alive": "-1"}
    same: Model = {**base, "name": "same:1b", "base": "a:1b", "system": "Be short."}
    wide: Model = {**base, "name": "wide:1b", "base": "a:1b", "parameters": {"num_ctx": 1024}}

    def contexts() -> list[int]:
        return [model["context_length"] for model in server.ask("/api/ps")["models"]]

    assert server.run(base)[0] == 0
    (tokens,) = contexts()
    assert server.run(base, same)[0] == 0
    assert contexts() == [tokens]
    assert server.run(base, same, wide)[0] == 0
    assert contexts() == [1024] != [tokens]


def test_the_runbooks_command_deletes_partial_downloads(server: Lab) -> None:
    """`ollama ls` does not list them, and a start of Ollama does not delete them."""

    def partial() -> list[Path]:
        return [*server.folder.rglob("*-partial*")]

    def slow(request: BaseHTTPRequestHandler) -> bool:
        time.sleep(5 if request.headers["Host"] == FILES and request.command == "GET" else 0)
        return False

    server.before = slow
    process = server.begin("a:1b", "b:1b")
    assert eventually(partial)
    process.kill()
    process.communicate()
    server.before = lambda _: False
    assert server.run("b:1b")[0] == 0
    server.kill()
    server.start()
    assert partial()
    [command] = re.findall(r"-- (find .* -delete)", (ROOT / "docs/runbook.md").read_text())
    # These files are younger than the runbook's hour.
    shell = command.replace("/data/models", str(server.folder)).replace("-mmin +60", "-mmin -60")

    subprocess.run(["sh", "-c", shell], check=True)

    assert partial() == []
    assert server.run("a:1b", "b:1b")[0] == 0
    assert server.answers("a:1b", "b:1b")
