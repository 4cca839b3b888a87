"""`make init` at a terminal, by a person's keystrokes, on a simulated node that no Job can see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT
from terminal import INIT, init_at_a_terminal

from config import read
from config.stack_file import project_keys, read_config
from ops.init import RESERVED
from sandbox.cluster import Cluster


def test_a_person_answers_what_the_cluster_cannot_say(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.new.yaml"
    answers = {
        "Run it?": "n",
        "where is its data disk": "/mnt/evo4t",
        "how large": "931Gi",
        "which memory": "DDR5-5600",
        "home network": "",
        "neighbouring addresses": "192.168.1.101-192.168.1.102",
        "e-mail": "me",
        "want an e-mail address": "me@example.com",
        "second disk": "",
        "Which, separated": "",
        "Write Pulumi.new.yaml?": "y",
        "Make them": "n",
    }

    code, screen = init_at_a_terminal(cluster, tmp_path, list(answers.values()))

    assert code == 0, screen
    assert [question for question in answers if question not in screen] == []
    settings = read(project_keys(read_config(file)), RESERVED)
    assert settings.nodes["evo4t"].memory == "93Gi"
    assert settings.nodes["evo4t"].memory_bandwidth == 89.6
    assert settings.ollama.names == ["llama3.2:3b", "gemma3:4b", "codellama:7b"]
    assert settings.observability.lan_address == "192.168.1.102"
    assert settings.network.metallb == "addon"
    assert "make doctor STACK=new" in screen.splitlines()[-2]

    # What is there already answers every question: a second run has nothing to say.
    before = file.read_text()
    code, screen = init_at_a_terminal(cluster, tmp_path, ["n", *[""] * 5, "n"])
    assert code == 0, screen
    assert "Pulumi.new.yaml: nothing to change" in screen
    assert file.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "--disk: missing; evo4t: where is its data disk mounted?"),
        (["--disk", "/mnt/evo4t"], "--disk-size: missing; evo4t: how large is /mnt/evo4t?"),
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
