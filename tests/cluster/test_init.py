"""`make init` at a terminal, by a person's keystrokes, on a simulated node that no Job can see."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

from config import read
from config.stack_file import config_of, own
from ops.init import RESERVED
from sandbox.cluster import Cluster

RUN = """
import sys
from pathlib import Path
from ops import stacks
from ops.__main__ import main
stacks.PROJECT = Path(sys.argv[1])
sys.exit(main(["init", "--stack", "new", *sys.argv[2:]]))
"""


def at_a_terminal(
    cluster: Cluster, folder: Path, keys: list[str], *arguments: str
) -> tuple[int, str]:
    """Run the command with a terminal at which `keys` are typed; give exit code and screen."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    command = [sys.executable, "-c", RUN, str(folder), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        os.write(controller, "".join(f"{key}\n" for key in keys).encode())
        screen = b""
        try:
            while part := os.read(controller, 4096):
                screen += part
        except OSError:
            # The terminal is closed when the last process that has it ends.
            pass
    os.close(controller)
    return process.returncode, screen.decode().replace("\r\n", "\n")


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

    code, screen = at_a_terminal(cluster, tmp_path, list(answers.values()))

    assert code == 0, screen
    assert [question for question in answers if question not in screen] == []
    settings = read(own(config_of(file)), RESERVED)
    assert settings.nodes["evo4t"].memory == "93Gi"
    assert settings.nodes["evo4t"].memory_bandwidth == 89.6
    assert settings.ollama.names == ["llama3.2:3b", "gemma3:4b", "codellama:7b"]
    assert settings.observability.lan_address == "192.168.1.102"
    assert settings.network.metallb == "addon"
    assert "make doctor STACK=new" in screen.splitlines()[-2]

    # What is there already answers every question: a second run has nothing to say.
    before = file.read_text()
    code, screen = at_a_terminal(cluster, tmp_path, ["n", *[""] * 6, "n"])
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
        [sys.executable, "-c", RUN, str(tmp_path), *arguments],
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
