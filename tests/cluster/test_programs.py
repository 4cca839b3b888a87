"""The programs of the pods: their versions, builds and requirements."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from config.versions import OPEN_WEBUI_IMAGE, RESTIC_IMAGE
from sandbox import images
from sandbox.build import TOOLS, Tool, build_tool, prometheus_version
from sandbox.processes import SandboxError
from sandbox.programs import install_tools
from sandbox.toolchain import GO_WHEEL, MODULES, ask_version, pinned

ROOT = Path(images.__file__).parent.parent


@pytest.fixture
def tiny(empty_cache: None, tmp_path: Path) -> Tool:
    """A program with a line of C, which prints another word with the build tag `two`."""
    del empty_cache
    module = tmp_path / "tiny"
    module.mkdir()
    (module / "go.mod").write_text("module tiny\n\ngo 1.26.0\n")
    (module / "go.sum").touch()
    (module / "main.go").write_text(
        'package main\n\n// #include <where.h>\nimport "C"\n\n'
        "func main() { println(word, C.GoString(C.where())) }\n"
    )
    (module / "one.go").write_text('//go:build !two\n\npackage main\n\nconst word = "one"\n')
    (module / "two.go").write_text('//go:build two\n\npackage main\n\nconst word = "two"\n')
    return Tool("tiny", module, ".", environment=TOOLS["ollama"].environment)


def with_header(folder: Path) -> Path:
    """Make `folder` with the header that the tiny program includes."""
    header = folder / "headers" / "where.h"
    header.parent.mkdir(parents=True)
    header.write_text("static char *where() { return __FILE__; }\n")
    return folder


def say(program: Path) -> str:
    """Return what the tiny program prints."""
    return subprocess.run([program], capture_output=True, text=True, check=True).stderr


def test_the_programs_have_the_pinned_versions(programs: dict[str, Path]) -> None:
    prometheus = Version(prometheus_version())
    assert ask_version(str(programs["prometheus"]), "--version") == prometheus
    ollama = Version(pinned("ollama", "github.com/ollama/ollama"))
    assert ask_version(str(programs["ollama"]), "--version") == ollama
    restic = Version(pinned("restic", "github.com/restic/restic"))
    assert ask_version(str(programs["restic"]), "version") == restic

    built = install_tools(("promtool", "kube-state-metrics", "node_exporter"))
    assert ask_version(str(built["promtool"]), "--version") == prometheus
    state = Version(pinned("kube-state-metrics", "k8s.io/kube-state-metrics/v2"))
    assert ask_version(str(built["kube-state-metrics"]), "version") == state
    node = Version(pinned("monitoring", "github.com/prometheus/node_exporter"))
    assert ask_version(str(built["node_exporter"]), "--version") == node


def test_open_webui_has_the_version_of_the_image() -> None:
    assert OPEN_WEBUI_IMAGE.endswith(f":v{images.OPEN_WEBUI}")


def test_restic_has_the_version_of_the_image() -> None:
    assert f"v{RESTIC_IMAGE.partition(':')[2]}" == pinned("restic", "github.com/restic/restic")


def test_the_gateway_is_tested_with_the_package_versions_of_open_webuis_image(
    open_webui: Path,
) -> None:
    freeze = [str(open_webui), "-m", "pip", "freeze", "--disable-pip-version-check"]
    installed = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    files = ("requirements.txt", "requirements-dev.txt")
    pins = "\n".join((ROOT / name).read_text() for name in files)
    ours = re.findall(r"^(?:aiohttp|opentelemetry|uvloop)[\w.=-]+", pins, re.MULTILINE)

    assert len(ours) == 4
    assert set(ours) <= set(installed)
    assert f"open-webui=={images.OPEN_WEBUI}" in installed


def test_other_tags_or_flags_are_another_build(tiny: Tool, tmp_path: Path) -> None:
    with_header(tmp_path)
    first = build_tool(tiny, tmp_path).stat()
    assert build_tool(tiny, tmp_path).stat() == first

    two = replace(tiny, flags=("-tags=two",))
    assert say(build_tool(two, tmp_path)) == "two ./headers/where.h\n"

    (tmp_path / "headers").rename(tmp_path / "others")
    flags = tuple(item.replace("headers", "others") for item in TOOLS["ollama"].environment)
    program = build_tool(replace(two, environment=flags), tmp_path)
    assert say(program) == "two ./others/where.h\n"


def test_a_program_does_not_contain_the_path_of_its_build(tiny: Tool, tmp_path: Path) -> None:
    folder = with_header(tmp_path / "some where")
    program = build_tool(tiny, folder)

    assert say(program) == "one ./headers/where.h\n"
    assert str(tmp_path).encode() not in program.read_bytes()


def test_a_missing_compiler_is_named(
    tiny: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")

    with pytest.raises(SandboxError, match=r'"no-such-compiler": executable file not found'):
        build_tool(tiny, tmp_path)


def test_the_go_of_pypi_is_new_enough_for_every_module() -> None:
    lines = [
        line.removeprefix("go ")
        for file in MODULES.glob("*/go.mod")
        for line in file.read_text().splitlines()
        if line.startswith("go ")
    ]
    assert Version(GO_WHEEL.partition("==")[2]) >= max(map(Version, lines))
