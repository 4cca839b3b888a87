"""What a terminal, a log without one, or the engine shows while pods of an `up` wait."""

import asyncio
import time
from pathlib import Path
from unittest.mock import Mock

import pulumi
import pytest
import rich
from waiting import eventually

from ops import waits
from ops.cluster import UnreadableError
from sandbox import progress

PULL = 'ollama-stack/ollama-0: ollama: Pulling image "ollama/ollama:0.30.0"'
MISSING = 'ollama-stack/open-webui-0: path "/mnt/evo4t/open-webui" does not exist'


def test_on_a_terminal_slow_pods_are_below_the_engines_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look = Mock(
        side_effect=[{PULL: 4.0}, UnreadableError("away"), *[{PULL: 7.0, MISSING: 0.0}] * 99]
    )
    monkeypatch.setattr(progress, "Cluster", Mock())
    monkeypatch.setattr(progress, "waits", look)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    # It keeps what it saw of the terminal when a test used it first.
    rich.reconfigure()

    shown = ""

    def shows(line: str) -> bool:
        nonlocal shown
        shown += capsys.readouterr().out
        return line in shown

    with progress.progress("context", Path("kubeconfig")):
        assert eventually(lambda: shows(f"  7 s: {PULL}"))
        progress.say("created")
    shows("")

    assert "4 s: " not in shown
    assert "0 s: " not in shown
    before, after = shown.split("  created\n")
    assert before.endswith("\x1b[2K")
    assert f"  7 s: {PULL}" in after


def test_without_a_terminal_only_the_engines_lines_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "Cluster", Mock())
    monkeypatch.setattr(progress, "waits", look := Mock(return_value={PULL: 61.0}))
    rich.reconfigure()

    with progress.progress("context", Path("kubeconfig")):
        time.sleep(1.5)
        progress.say("created")

    assert capsys.readouterr().out == "  created\n"
    # The cluster is not asked for what nobody sees.
    assert not look.called


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
