"""The commands of `python -m ops`."""

import pytest

from ops.__main__ import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [])

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "options:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["drift", "--nothing"], ["render"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stack", ["../x", "a/b", "/tmp/x", ""])
def test_a_stack_that_is_a_path_is_refused(
    command: str, stack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--stack", stack]) == 1
    want = f"error: STACK: got {stack!r}, want a stack's name, such as home\n"
    assert capsys.readouterr().err == want
