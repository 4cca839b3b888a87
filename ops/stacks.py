"""How to reach a stack: the Pulumi CLI on it, and its cluster's kubeconfig."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.cluster import UnreadableError

PROJECT = Path(__file__).parent.parent
CHANGES = 7
"""The CLI's exit code for "changes were found" under `--expect-no-changes`."""
# Marks a secret in the state (pulumi, sdk/go/common/resource/sig: Key).
SECRET = "4dabf18193072939515e22adb298388d"
Cli = Callable[..., subprocess.CompletedProcess[str]]
"""Runs the Pulumi CLI on one stack with the arguments given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack that was brought up somewhere."""

    name: str
    cli: Cli
    kubeconfig: Path | None
    """None for the one that `KUBECONFIG` names."""
    simulated: bool
    """Whether no container runs and no Helm chart may have been rendered."""
    folder: Path = PROJECT
    """Where the CLI runs, and its plugins."""


def printed(stack: Stack, *arguments: str) -> Any:
    """Give the JSON that a CLI command prints; raises UnreadableError with the command's reason."""
    done = stack.cli(*arguments)
    try:
        answer = json.loads(done.stdout, object_hook=_opened)
    except ValueError:
        answer = None
    if done.returncode in (0, CHANGES) and answer is not None:
        return answer
    diagnostics = (answer or {}).get("diagnostics") or []
    # The first has the cause; what follows is that it failed.
    errors = [one["message"] for one in diagnostics if one["severity"] == "error"]
    line = " ".join((errors or [done.stderr or done.stdout])[0].split())
    raise UnreadableError(f"pulumi {arguments[0]}: exit {done.returncode}: {line[:300]}")


def deployment(stack: Stack) -> dict[str, Any]:
    """Read what the last `up` left, secrets in plain text, with the kubeconfig's `context`.

    Raises UnreadableError, also if there is nothing.
    """
    state = printed(stack, "stack", "export", "--show-secrets").get("deployment") or {}
    made = [one for one in state.get("resources") or [] if not one.get("delete")]
    providers = [one for one in made if one["type"] == "pulumi:providers:kubernetes"]
    if not providers:
        raise UnreadableError("the state is empty: nothing was brought up yet")
    return {**state, "resources": made, "context": providers[0]["inputs"]["context"]}


def _opened(part: dict[str, Any]) -> Any:
    return json.loads(part["plaintext"]) if SECRET in part and "plaintext" in part else part


def find(name: str) -> Stack:
    """Find a stack by name; raises UnreadableError if it cannot be reached."""
    return _sandbox() if name == "sandbox" else _house(name)


def _house(name: str) -> Stack:
    if not (PROJECT / f"Pulumi.{name}.yaml").exists():
        raise UnreadableError(f"STACK: got {name!r}, want one that has a file Pulumi.STACK.yaml")
    if not (pulumi := shutil.which("pulumi")):
        raise UnreadableError("pulumi: not on PATH; it must be 3.250 or newer (docs/install.md)")

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [pulumi, *arguments, "--non-interactive", "--color=never"],
            cwd=PROJECT,
            # Not --stack, which `whoami` does not take.
            env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "true", "PULUMI_STACK": name},
            capture_output=True,
            text=True,
            check=False,
        )

    return Stack(name=name, cli=cli, kubeconfig=None, simulated=False)


def _sandbox() -> Stack:
    # Only here: a house has no need of it.
    from sandbox.build import FOLDER, build
    from sandbox.cluster import Cluster
    from sandbox.engine import Engine
    from sandbox.processes import SandboxError

    try:
        tools = build()
    except SandboxError as error:
        raise UnreadableError(str(error)) from error
    cluster = Cluster(FOLDER / "run", tools)
    if not cluster.running():
        raise UnreadableError("the sandbox is not running; start it with: make up")
    engine = Engine(cluster, tools)
    return Stack(
        name="sandbox",
        cli=engine.cli,
        kubeconfig=cluster.kubeconfig,
        simulated=True,
        folder=engine.work,
    )
