"""Access to a stack: its Pulumi CLI, and its cluster's kubeconfig."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import Request, Settings, read
from config.stack_file import project_keys, read_config
from ops.cluster import UnreadableError

PROJECT = Path(__file__).parent.parent
# Key of secrets in the state (pulumi, sdk/go/common/resource/sig: Key).
SECRET = "4dabf18193072939515e22adb298388d"
Cli = Callable[..., subprocess.CompletedProcess[str]]
"""Runs the Pulumi CLI on a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack, and how to reach it."""

    name: str
    cli: Cli
    kubeconfig: Path | None
    """None for the default, by `KUBECONFIG`."""
    folder: Path = PROJECT
    """Working directory of the CLI and its plugins."""


def output(stack: Stack, *arguments: str) -> str:
    """Return the output of a CLI command; raises UnreadableError with its error."""
    process = stack.cli(*arguments)
    if process.returncode:
        line = " ".join((process.stderr or process.stdout).split())
        raise UnreadableError(f"pulumi {' '.join(arguments[:2])}: {line[:500]}")
    return process.stdout


def deployment(stack: Stack) -> dict[str, Any]:
    """Return the state's deployment with decrypted secrets, and the kubeconfig's `context`.

    Raises UnreadableError, also if the state is empty.
    """
    text = output(stack, "stack", "export", "--show-secrets")
    state = json.loads(text, object_hook=_decrypted).get("deployment") or {}
    resources = [item for item in state.get("resources") or [] if not item.get("delete")]
    providers = [item for item in resources if item["type"] == "pulumi:providers:kubernetes"]
    if not providers:
        raise UnreadableError("the state is empty: the stack has not been deployed yet")
    return {**state, "resources": resources, "context": providers[0]["inputs"]["context"]}


def _decrypted(value: dict[str, Any]) -> Any:
    return json.loads(value["plaintext"]) if SECRET in value and "plaintext" in value else value


def stack_file(name: str) -> Path:
    """Return the path of a stack's file; raises UnreadableError if there is none."""
    if not (file := PROJECT / f"Pulumi.{name}.yaml").exists():
        names = sorted(path.stem.removeprefix("Pulumi.") for path in PROJECT.glob("Pulumi.*.yaml"))
        want = f"one of {', '.join(names)}; make init STACK={name} writes Pulumi.{name}.yaml"
        raise UnreadableError(f"STACK: got {name!r}, want {want}")
    return file


def settings(name: str, reserved: Request) -> Settings:
    """Return the settings in a stack's file; raises UnreadableError and SettingsError."""
    return read(project_keys(read_config(stack_file(name))), reserved)


def find(name: str) -> Stack:
    """Return the server's stack of this name; raises UnreadableError if it cannot be reached."""
    stack_file(name)
    if not (pulumi := shutil.which("pulumi")):
        raise UnreadableError("pulumi: not on PATH; it must be 3.250 or newer (docs/install.md)")

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [pulumi, *arguments, "--non-interactive", "--color=never"],
            cwd=PROJECT,
            # Not --stack, which `whoami` does not support.
            env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_STACK": name},
            capture_output=True,
            text=True,
            check=False,
        )

    return Stack(name=name, cli=cli, kubeconfig=None)
