"""How to reach a stack: the Pulumi CLI on it, and its cluster's kubeconfig."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.cluster import UnreadableError
from ops.drift_declared import Cli

PROJECT = Path(__file__).parent.parent


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


def find(name: str) -> Stack:
    """Find a stack by name; raises UnreadableError if it cannot be reached."""
    return _sandbox() if name == "sandbox" else _house(name)


def _house(name: str) -> Stack:
    if not (pulumi := shutil.which("pulumi")):
        raise UnreadableError("pulumi: not on PATH; it must be 3.250 or newer (docs/house.md)")

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
