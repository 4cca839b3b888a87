"""Code for a server runs on Linux and macOS, with requirements.txt alone."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from harness import ROOT

LINUX = {"ops/diff.py"}
"""Modules that start the sandbox."""
FILES = [
    file
    for file in (
        ROOT / "__main__.py",
        *(ROOT.glob("components/**/*.py")),
        *ROOT.glob("config/*.py"),
    )
    if "programs" not in file.parts
] + [file for file in ROOT.glob("ops/*.py") if str(file.relative_to(ROOT)) not in LINUX]
UNIX = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "spwd", "termios", "tty"}
SYSTEM = {"asyncio.unix_events", "msvcrt", "uvloop", "winreg", "winloop"} | UNIX
CALLS = re.compile(
    r"os\.(sched_\w+|fork\w*|get[eu]?[ug]id|set[eu]?[ug]id|setsid|killpg|mkfifo|chown|wait\w*"
    r"|pidfd\w*|memfd\w*|posix_\w+)|signal\.(SIG(HUP|USR\d|KILL|CHLD)|pthread_\w+|alarm)"
)
# macOS has /etc/localtime, too.
PATHS = re.compile(r"/(proc|sys|dev|run|var|etc(?!/localtime))/")
GNU = {"tar", "sed", "date", "stat", "readlink", "find", "xargs", "timeout", "sha256sum", "md5sum"}
"""Programs whose options differ between GNU and BSD."""
NEWER = re.compile(
    r"\.ONESHELL|\.RECIPEPREFIX|\.EXTRA_PREREQS|\.NOTINTERMEDIATE|^(private|undefine|load) "
    r"|^define \S+ ?=|^\w+ *!=|::=|&:|\$\((file|guile|let|intcmp) |--output-sync",
    re.MULTILINE,
)
"""Features that GNU make 3.81 of macOS lacks."""


def unportable(text: str) -> list[str]:
    """Return modules, calls, programs and paths of a Python file that not every system has."""
    hits = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import():
                hits += [alias.name for alias in node.names if alias.name in SYSTEM]
            case ast.ImportFrom() if node.module in SYSTEM:
                hits.append(str(node.module))
            case ast.Attribute() if CALLS.fullmatch(ast.unparse(node)):
                hits.append(ast.unparse(node))
            case ast.List(elts=[ast.Constant(value=str(word)), *_]) if word in GNU:
                hits.append(word)
    # Only paths that are opened; others are paths of the server.
    opened = re.findall(r"(?:Path|open)\(\s*f?\"(/[^\"]*)", text)
    return hits + [path for path in opened if PATHS.match(path)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_code_for_a_server_is_portable(file: Path) -> None:
    assert unportable(file.read_text()) == []


def test_the_makefile_works_with_make_3_81_and_bsd_tools() -> None:
    text = (ROOT / "Makefile").read_text()

    assert NEWER.findall(text) == []
    commands = re.findall(r"^\t.*", text, re.MULTILINE)
    assert [line for line in commands if GNU & set(re.findall(r"(?<![\w.-])\w+", line))] == []


def names(requirements: str) -> set[str]:
    """Return the packages of a requirements file, with normalized names."""
    lines = (ROOT / requirements).read_text().splitlines()
    return {
        re.sub("[-_.]+", "-", line.partition("==")[0]).lower() for line in lines if "==" in line
    }


def test_requirements_has_exactly_the_imported_packages() -> None:
    distributions, own = packages_distributions(), {"components", "config", "ops", "sandbox"}
    imported = set()
    for file in [*FILES, *(ROOT / name for name in LINUX)]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    packages = {
        re.sub("[-_.]+", "-", distributions[name][0]).lower()
        for name in imported - own - sys.stdlib_module_names
    }

    assert packages | {"pytest"} == names("requirements.txt")
    assert not names("requirements.txt") & names("requirements-dev.txt")


@pytest.mark.parametrize("target", ["up", "demo"])
def test_make_up_reports_that_the_sandbox_needs_linux(target: str, tmp_path: Path) -> None:
    (tmp_path / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (tmp_path / "uname").chmod(0o755)
    process = subprocess.run(
        ["make", "-o", ".venv/dev", target],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.stderr.startswith("error: the sandbox needs Linux; ")
    assert process.stdout == ""
