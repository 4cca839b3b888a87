"""The GitHub workflows: their commands, pins and secrets, and the issue about drift."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import ROOT

from ops.__main__ import main
from sandbox.cache import cache

FOLDER = ROOT / ".github/workflows"
WORKFLOWS: dict[str, dict[Any, Any]] = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted(FOLDER.glob("*.yml"))
}
JOBS = [job for workflow in WORKFLOWS.values() for job in workflow["jobs"].values()]
STEPS = [step for job in JOBS for step in job["steps"]]
LINES = [line for step in STEPS for line in step.get("run", "").splitlines()]
SHELL = ("umask", "printf")
"""Builtins of the shell."""


def missing(line: str) -> str | None:
    """Return the error of a line whose program, target or command does not exist."""
    words = shlex.split(line.partition(">")[0])
    if words[0] == "sudo":
        # Skip the options of sudo and the variables.
        words = words[[n for n, word in enumerate(words) if "=" in word][-1] + 1 :]
    if words[0] == ".ci/run" and len(words) > 1:
        words = ["make", *words[1:]]
    if words[0] in SHELL:
        return None
    if words[0] == "make":
        command = ["make", "--dry-run", *words[1:]]
    elif "-m" in words:
        command = [sys.executable, *words[1:], "--help"]
    else:
        return None if shutil.which(words[0], path=str(ROOT)) else f"{words[0]}: no such program"
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    # For a phony target without a rule, make exits with 0.
    is_no_rule = "Nothing to be done" in process.stdout
    return (process.stderr or process.stdout) if process.returncode or is_no_rule else None


@pytest.mark.parametrize("line", sorted(set(LINES)))
def test_every_command_of_a_workflow_exists(line: str) -> None:
    assert missing(line) is None


def test_zizmor_has_no_findings() -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    command = [str(zizmor), "--offline", "--no-progress", "--persona=pedantic", str(FOLDER)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)

    assert process.returncode == 0, process.stdout
    assert "No findings to report" in process.stdout


def test_every_action_is_pinned_by_commit_with_its_version_in_a_comment() -> None:
    text = "".join(file.read_text() for file in FOLDER.glob("*.yml"))
    pins = re.findall(r"uses: (\S+)(.*)", text)

    assert len(pins) > 8
    for action, comment in pins:
        assert re.fullmatch(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    assert len({action for action, _ in pins}) == len({action.split("@")[0] for action, _ in pins})


def test_jobs_with_secrets_have_an_environment() -> None:
    with_secrets = [job for job in JOBS if "secrets." in str(job)]

    assert with_secrets
    assert [job["name"] for job in with_secrets if "environment" not in job] == []


def test_versions_and_addresses_are_those_of_the_project() -> None:
    inputs = [step.get("with", {}) for step in STEPS]
    pinned = re.search(r"^pulumi==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    target = re.search(r'target-version = "py3(\d+)"', (ROOT / "pyproject.toml").read_text())

    assert pinned
    assert target
    versions = {values["pulumi-version"] for values in inputs if "pulumi-version" in values}
    assert versions == {pinned[1]}
    pythons = {values["python-version"] for values in inputs if "python-version" in values}
    assert pythons == {f"3.{target[1]}", "${{ matrix.python }}"}
    # The address is the owner's: docs/operate.md#from-github.
    pings = {values["ping"] for values in inputs if "ping" in values}
    assert pings == {"${{ vars.TAILNET_ADDRESS }}"}


def test_one_job_saves_the_build_cache_and_the_others_restore_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved, *restored = [step for step in STEPS if "actions/cache" in step.get("uses", "")]
    home = Path.home()

    monkeypatch.delenv("HOMELAB_CACHE", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert Path(saved["with"]["path"].replace("~", str(home))) == cache()
    # Jobs that run at the same time would build and save the same.
    assert saved["uses"].split("@")[0] == "actions/cache"
    assert {step["uses"].split("@")[0] for step in restored} == {"actions/cache/restore"}
    assert [step["with"] for step in restored] == [saved["with"]] * len(restored)


def test_the_summary_has_the_output_of_make_and_a_failure_ends_the_step(tmp_path: Path) -> None:
    (script,) = [step["run"] for step in STEPS if "make --silent diff" in step.get("run", "")]
    summary, make = tmp_path / "summary.md", tmp_path / "make"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_STEP_SUMMARY": str(summary)}
    for code in (0, 1):
        make.write_text(f'#!/bin/sh\necho "asked for: $*"\nexit {code}\n')
        make.chmod(0o755)
        process = subprocess.run(["bash", "-e", "-c", script], env=environment, check=False)

        assert process.returncode == code
    output = "~~~~~diff\nasked for: --silent diff STACK=home BASE=HEAD^1\n"
    assert summary.read_text() == f"{output}~~~~~\n{output}"


class GitHub:
    """A scripted `gh` with issues; it accepts only flags that the real one has."""

    def __init__(self) -> None:
        self.issues: list[dict[str, Any]] = []
        self.commands: list[str] = []
        self.error = ""

    def run(self, command: list[str], body: str) -> subprocess.CompletedProcess[str]:
        """Return the result of `gh issue`, which fails with `error`."""
        assert command[:2] == ["gh", "issue"]
        verb = command[2]
        self.commands.append(verb)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        parser = argparse.ArgumentParser(allow_abbrev=False)
        if verb in ("edit", "comment", "close"):
            parser.add_argument("number", type=int)
        for flag in {
            "list": ["--app", "--state", "--limit", "--json"],
            "create": ["--title", "--body-file"],
            "close": ["--comment"],
        }.get(verb, ["--body-file"]):
            parser.add_argument(flag, required=True)
        options, output = parser.parse_args(command[3:]), ""
        if verb == "list":
            wanted = (options.app, options.state)
            listed = [issue for issue in self.issues if (issue["app"], issue["state"]) == wanted]
            keys = options.json.split(",")
            output = json.dumps([{key: issue[key] for key in keys} for issue in listed])
        elif verb == "create":
            new = {"number": len(self.issues) + 1, "app": "github-actions", "state": "open"}
            self.issues.append({**new, "title": options.title, "body": body, "comments": []})
        else:
            (issue,) = [issue for issue in self.issues if issue["number"] == options.number]
            if verb == "comment":
                issue["comments"].append(body)
            else:
                issue |= {"body": body} if verb == "edit" else {"state": "closed"}
        return subprocess.CompletedProcess(command, 0, output, "")

    def take_commands(self) -> list[str]:
        """Return the subcommands since the last call."""
        commands, self.commands = self.commands, []
        return commands


Check = Callable[..., int]


@pytest.fixture
def github() -> GitHub:
    return GitHub()


@pytest.fixture
def check_drift(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Runs the workflow's last command, with a result of `python -m ops drift`."""

    def check(code: int, table: str = "", error: str = "") -> int:
        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            if command[0] == "gh":
                result = github.run(command, options["input"])
                if options["check"]:
                    result.check_returncode()
                return result
            assert command[1:] == ["-m", "ops", "drift", "--stack", "home"]
            return subprocess.CompletedProcess(command, code, table, error)

        (line,) = [line for line in LINES if "-m ops issue" in line]
        monkeypatch.setattr("subprocess.run", run)
        return main(shlex.split(line.partition("-m ops ")[2]))

    return check


def test_an_issue_is_open_while_there_is_drift(github: GitHub, check_drift: Check) -> None:
    assert check_drift(0, "no drift\n") == 0
    assert github.take_commands() == ["list"]

    assert check_drift(7, "Deployment scaled\n") == 0
    assert github.take_commands() == ["list", "create"]
    (opened,) = github.issues
    assert opened["title"] == "Drift: home"
    assert opened["body"].endswith("\n\n    Deployment scaled")

    assert check_drift(7, "Deployment scaled\n") == 0
    assert github.take_commands() == ["list"]

    assert check_drift(7, "Service edited\n") == 0
    assert github.take_commands() == ["list", "edit", "comment"]
    (changed,) = github.issues
    assert "Service edited" in changed["body"]
    assert ["Service edited" in text for text in changed["comments"]] == [True]

    assert check_drift(0) == 0
    assert github.take_commands() == ["list", "close"]
    (closed,) = github.issues
    assert closed["state"] == "closed"

    assert check_drift(7, "Service edited\n") == 0
    assert [issue["state"] for issue in github.issues] == ["closed", "open"]


def test_an_issue_about_an_interrupted_up_begins_with_make_recover(
    github: GitHub, check_drift: Check
) -> None:
    check_drift(7, "  helm: secret observability/one: pending-upgrade\n")
    assert github.issues[0]["body"].startswith("An `up` was cut off: first `make recover STACK=h")
    check_drift(7, "  release: service observability/one: changed\n")
    assert "recover" not in github.issues[0]["body"]


def test_a_failed_check_leaves_the_issue_as_it_is(
    github: GitHub, check_drift: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    check_drift(7, "Deployment scaled\n")
    github.take_commands()

    for code in (1, 2, 255, -9):
        assert check_drift(code, "", "error: could not check home: no route\n") == 1
    assert github.take_commands() == []
    assert github.issues[0]["state"] == "open"
    assert "error: could not check home: no route" in capsys.readouterr().err


def test_an_issue_of_another_author_is_left_alone(github: GitHub, check_drift: Check) -> None:
    theirs = {"number": 1, "app": "", "state": "open", "title": "Drift: home", "body": "hello"}
    github.issues = [dict(theirs)]

    check_drift(0)
    assert github.issues == [theirs]
    check_drift(7, "Deployment scaled\n")
    assert github.issues[0] == theirs
    assert len(github.issues) == 2


def test_a_long_table_fits_in_an_issue(github: GitHub, check_drift: Check) -> None:
    check_drift(7, "Deployment scaled ```\n" * 9999)

    (opened,) = github.issues
    assert 60_000 < len(opened["body"]) < 65536
    # A fence in it ends no code block.
    assert opened["body"].count("\n    Deployment scaled ```") > 2000


def test_an_error_of_gh_is_one_line(
    github: GitHub, check_drift: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    github.error = "HTTP 403: not\n accessible"

    assert check_drift(7, "Deployment scaled\n") == 1
    assert capsys.readouterr().err == "error: gh list: HTTP 403: not accessible\n"
