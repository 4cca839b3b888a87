"""`make init` at a terminal, by a person's keystrokes, on a simulated node that no Job can see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT
from terminal import END, INIT, init_at_a_terminal

from config import read
from config.errors import SECRET
from config.stack_file import project_keys, read_config
from ops.init_file import RESERVED
from sandbox.cluster import Cluster

ANSWERS = ["/mnt/evo4t", "931Gi", "", "", "192.168.1.101-192.168.1.102", *[""] * 4]
"""Answers to all questions but those about Jobs and the file."""


def test_a_person_answers_what_the_cluster_cannot_say(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.new.yaml"
    answers = {
        "Run it?": "show",
        "kind: Job": "n",
        "the data disk": "/mnt/evo4t",
        "the size of": "931Gi",
        "its memory": "DDR5-5600",
        "home network": "",
        "Two addresses": "192.168.1.101-192.168.1.102",
        "e-mail": "me",
        "want an e-mail address": "me@example.com",
        "Disk for backups": "",
        "Alerts by": "ntfy",
        "time zone": "Europe/Berlin",
        "Models to pull": "",
        "Write Pulumi.new.yaml?": "y",
        "directories": "n",
    }

    code, screen = init_at_a_terminal(cluster, tmp_path, list(answers.values()))

    assert code == 0, screen
    assert [question for question in answers if question not in screen] == []
    settings = read({**project_keys(read_config(file)), "notifySecret": SECRET}, RESERVED)
    assert settings.nodes["evo4t"].memory == "93Gi"
    assert settings.nodes["evo4t"].memory_bandwidth == 89.6
    assert settings.ollama.names == ["llama3.2:3b", "gemma3:4b", "codellama:7b"]
    assert settings.observability.lan_address == "192.168.1.102"
    assert settings.network.metallb == "addon"
    assert settings.observability.notify
    assert settings.observability.notify.timezone == "Europe/Berlin"
    assert "wrote Pulumi.new.yaml\n" in screen
    assert screen.splitlines()[-5:] == [
        "next:",
        "  pulumi stack init new",
        "  pulumi config set --secret homelab:notifySecret --stack new",
        "  make doctor STACK=new",
        "  make up STACK=new",
    ]

    # A second run asks only whether to run the Jobs.
    before = file.read_text()
    code, screen = init_at_a_terminal(cluster, tmp_path, ["n", "n"])
    assert code == 0, screen
    assert screen.count("? [") == 2
    assert "Pulumi.new.yaml: nothing to change" in screen
    assert file.read_text() == before


@pytest.mark.parametrize("keys", [[END], ["n", END], ["n", *ANSWERS, END], ["n", *ANSWERS, "n"]])
def test_whoever_leaves_before_the_file_is_written_is_told_so(
    keys: list[str], cluster: Cluster, tmp_path: Path
) -> None:
    code, screen = init_at_a_terminal(cluster, tmp_path, keys)

    assert code == 1
    reason = "no answer" if keys[-1] is END else "not confirmed"
    assert screen.endswith(f"error: {reason}; nothing was written\n"), screen
    assert list(tmp_path.iterdir()) == []


def test_whoever_leaves_after_the_file_is_written_is_told_what_comes_next(
    cluster: Cluster, tmp_path: Path
) -> None:
    code, screen = init_at_a_terminal(cluster, tmp_path, ["n", *ANSWERS, "y", END])

    assert code == 0, screen
    assert (tmp_path / "Pulumi.new.yaml").exists()
    assert "nothing was written" not in screen
    assert "make up STACK=new" in screen.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--disk: missing; evo4t: the data disk, by its mount point?"),
        (["--disk", "/mnt/evo4t"], "--disk-size: missing; evo4t: the size of /mnt/evo4t?"),
    ],
)
def test_without_a_terminal_a_missing_answer_is_a_line(
    cluster: Cluster, tmp_path: Path, arguments: list[str], line: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INIT, str(tmp_path), *arguments],
        cwd=ROOT,
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == f"error: {line}; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
