"""What a terminal, or a log without one, shows while pods of an `up` wait."""

from pathlib import Path
from unittest.mock import Mock

import pytest

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

    wait.show([PULL], 100)
    assert capsys.readouterr().out == ""
    wait.show([PULL, MISSING], 107)
    assert capsys.readouterr().out == f"  {PULL}, 7 s"[:59] + "\n"
    wait.say("created")
    up, clear = "\x1b[1A", "\x1b[J"
    assert capsys.readouterr().out == f"{up}{clear}  created\n" + f"  {PULL}, 7 s"[:59] + "\n"
    wait.show([], 108)
    assert capsys.readouterr().out == f"{up}{clear}"


def test_without_a_terminal_a_wait_is_one_line_within_a_minute(
    wait: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    for now in range(100, 160):
        wait.show([PULL] if now < 120 else [MISSING], now)

    assert capsys.readouterr().out == f"  waiting for 30 s: {MISSING}\n"
