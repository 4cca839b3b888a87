"""What `make up` and `make down` print when they fail; all else is in tests/stack."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from pulumi.automation import CommandError

from sandbox import __main__ as commands
from sandbox import demo
from sandbox.engine import Engine, _interrupt_deferred
from sandbox.processes import SandboxError, locked
from sandbox.progress import say


def stopped(code: int, stderr: str = "") -> CommandError:
    """The CLI's end, as the automation API words it."""
    return CommandError(f"\n code: {code}\n stdout: \n stderr: {stderr}\n")  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The engine of `make down`, beside a cluster that runs."""
    engine = Mock()
    monkeypatch.setattr(commands, "build", Mock())
    monkeypatch.setattr(commands, "Cluster", Mock())
    monkeypatch.setattr(commands, "Engine", lambda *_: engine)
    monkeypatch.setattr("sys.argv", ["sandbox", "--folder", str(tmp_path), "down"])
    return engine


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (stopped(-9), "pulumi was killed by signal 9; run"),
        (stopped(1, "error: failed to load checkpoint: EOF"), "pulumi stopped: failed to load"),
        (stopped(1), "pulumi stopped; the reason is above"),
    ],
)
def test_the_reason_why_the_cli_ended_is_printed(
    error: CommandError,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands, "build", Mock(side_effect=error))
    monkeypatch.setattr("sys.argv", ["sandbox", "down"])

    assert commands.main() == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: {reason}")
    assert line.endswith("run the same command again")


def test_down_throws_away_what_cannot_be_destroyed(
    engine: Mock, capfd: pytest.CaptureFixture[str]
) -> None:
    engine.destroy.side_effect = stopped(1)

    assert commands.main() == 0
    out = capfd.readouterr().out
    assert out.endswith("is deleted with the cluster\nsandbox: stopped and deleted\n")


def test_an_interrupted_down_throws_nothing_away(
    engine: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SimpleNamespace(running=lambda: True)  # nothing to remove it with
    monkeypatch.setattr(commands, "Cluster", lambda *_: cluster)

    def destroy(_: object) -> None:
        # As when the terminal sends it to the CLI as well, which then stops in good order.
        with _interrupt_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            raise stopped(1)

    engine.destroy = destroy
    assert commands.main() == 130


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (" +  kubernetes:core/v1:Service ollama-service creating (0s) Skipping await logic", False),
        (" +  kubernetes:apps/v1:Deployment ollama-deployment creating (4s)", False),
        (" +  kubernetes:apps/v1:Deployment ollama-deployment creating (5s) Waiting for", True),
        (" +  kubernetes:apps/v1:Deployment ollama-deployment created (1s)", True),
        ("    error: update failed", True),
    ],
)
def test_a_change_is_a_line_and_a_wait_from_five_seconds_on(
    line: str, shown: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    say(line)

    assert bool(capfd.readouterr().out) is shown


def test_a_missing_stack_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"^Pulumi.yaml: cannot be read: No such file"):
        Engine(Mock(folder=tmp_path), Mock(), tmp_path).outputs()


def test_a_demo_is_deleted_only_when_none_is_built_or_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    file = tmp_path / "demo" / "disk"
    with locked(tmp_path / "demo" / demo.SESSION):
        file.touch()
        with pytest.raises(SandboxError, match=rf"process {os.getpid()} works in it; end it first"):
            demo.clean(tmp_path / "demo")
        assert file.exists()

    demo.clean(tmp_path / "demo")

    assert not (tmp_path / "demo").exists()
