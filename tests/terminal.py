"""Runs a command at a pseudo-terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from harness import ROOT

from sandbox.engine import Cluster

END = "\x04"
"""Ctrl-D."""
INIT = """
import sys
from pathlib import Path
from ops import stacks
from ops.__main__ import main
stacks.PROJECT = Path(sys.argv[1])
sys.exit(main(["init", "--stack", "new", *sys.argv[2:]]))
"""


def init_at_a_terminal(
    cluster: Cluster, folder: Path, keys: list[str], *arguments: str
) -> tuple[int, str]:
    """Run `make init STACK=new`, type `keys`, and return the exit code and the screen."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    command = [sys.executable, "-c", INIT, str(folder), *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        # Ctrl-D, also where there are more questions than answers; it ends an empty line itself.
        lines = [key if key == END else f"{key}\n" for key in [*keys, END, END]]
        os.write(controller, "".join(lines).encode())
        screen = b""
        try:
            while part := os.read(controller, 4096):
                screen += part
        except OSError:
            # EIO: the process has ended, which closes the terminal.
            pass
    os.close(controller)
    return process.returncode, screen.decode().replace("\r\n", "\n")
