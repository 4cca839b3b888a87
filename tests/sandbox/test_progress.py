"""What a terminal, a log without one, or the engine shows while pods of an `up` wait."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pulumi
import pytest
from waiting import eventually

from ops import waits
from ops.cluster import UnreadableError
from sandbox import progress
from sandbox.progress import Progress

PULL = 'ollama-stack/ollama-0: ollama: Pulling image "ollama/ollama:0.30.0"'
MISSING = 'ollama-stack/open-webui-0: path "/mnt/evo4t/open-webui" does not exist'


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Progress:
    """Progress of an `up` on a cluster that is not asked."""
    monkeypatch.setattr(progress, "Cluster", Mock())
    monkeypatch.setenv("COLUMNS", "60")
    return Progress("context", Path("kubeconfig"))


def test_on_a_terminal_slow_pods_are_below_the_engines_lines(
    wait: Progress, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wait, "_is_terminal", True)

    wait.show({PULL: 4})
    assert capsys.readouterr().out == ""
    wait.show({PULL: 7, MISSING: 0})
    assert capsys.readouterr().out == f"  7 s: {PULL}"[:59] + "\n"
    wait.say("created")
    up, clear = "\x1b[1A", "\x1b[J"
    assert capsys.readouterr().out == f"{up}{clear}  created\n" + f"  7 s: {PULL}"[:59] + "\n"
    wait.show({})
    assert capsys.readouterr().out == f"{up}{clear}"


def test_without_a_terminal_a_wait_is_one_line_within_a_minute(
    wait: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    for age in range(60):
        wait.show({PULL: min(age, 20), MISSING: age})

    assert capsys.readouterr().out == f"  waiting for 30 s: {MISSING}\n"


def test_while_an_up_goes_on_the_engine_shows_each_reason_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [{PULL: 4.0, MISSING: 29.0}, UnreadableError("away"), {MISSING: 34.0}, {MISSING: 39.0}]
    look, log = Mock(side_effect=[*looks, *[{}] * 1000]), Mock()
    monkeypatch.setattr(waits, "Cluster", Mock())
    monkeypatch.setattr(waits, "waits", look)
    monkeypatch.setattr(waits, "INTERVAL", 0.01)
    monkeypatch.setattr(pulumi.log, "warn", log)

    async def up() -> None:
        waits.log_waits("context")
        assert await asyncio.to_thread(eventually, lambda: look.call_count > len(looks))

    asyncio.run(up())
    log.assert_called_once_with(f"{MISSING}, for 34 s", ephemeral=True)


def test_a_preview_asks_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)
    monkeypatch.setattr(waits, "Cluster", cluster := Mock())

    waits.log_waits("context")

    assert not cluster.called
