"""The commands of `python -m ops`."""

from pathlib import Path

import pytest

from ops.__main__ import COMMANDS, main
from ops.cluster import Cluster, UnreadableError, current_context
from ops.init_questions import QUESTIONS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [])

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "options:" in capsys.readouterr().out


def test_every_answer_to_a_question_has_a_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["init", "--help"])

    *_, options = capsys.readouterr().out.rpartition("--yes")
    assert options.count("\n  --") == len(QUESTIONS) == options.count("default:")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["drift", "--nothing"], ["render"]])
def test_a_wrong_command_line_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) <= 2


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("stack", ["../x", "a/b", "/tmp/x", ""])
def test_a_stack_that_is_a_path_is_refused(
    command: str, stack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--stack", stack]) == 1
    want = f"error: STACK: got {stack!r}, want a stack's name, such as home\n"
    assert capsys.readouterr().err == want


@pytest.mark.parametrize("command", ["doctor", "drift", "recover", "restore", "status"])
def test_a_stack_without_a_file_is_a_line_with_those_that_have_one(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert main([command, "--stack", "nowhere"]) in (1, 3)
    line = capsys.readouterr().err
    assert "STACK: got 'nowhere', want one of example-two-nodes, home, sandbox; make init" in line
    assert len(line.splitlines()) == 1


SERVER = "https://127.0.0.1:9"
KUBECONFIG = f"""
current-context: ""
contexts: [{{name: home, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "{SERVER}"}}}}]
users: [{{name: u, user: {{token: x}}}}]
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "Invalid kube-config"), ("a: [", "while parsing"), (KUBECONFIG, "Expected object")],
)
def test_a_kubeconfig_without_the_context_is_a_line(
    text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "kubeconfig").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))

    for read, want in (
        (lambda: Cluster("away"), "the context 'away'"),
        (current_context, "a current context, or CONTEXT=NAME"),
    ):
        with pytest.raises(UnreadableError) as error:
            read()
        assert str(error.value).startswith(f"kubeconfig: got '{file}', want {want}: {problem}")
        assert "\n" not in str(error.value)


def test_of_a_server_that_is_away_its_address_and_the_cause_are_named(tmp_path: Path) -> None:
    (file := tmp_path / "kubeconfig").write_text(KUBECONFIG)

    with pytest.raises(UnreadableError) as error:
        Cluster("home", file).read("/version")
    assert str(error.value) == f"{SERVER}/version: no answer: [Errno 111] Connection refused"
