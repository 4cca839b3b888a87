"""Provider plugins for machines that cannot download the official ones; sandbox cluster only."""

import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

WRAPPER = """\
#!/bin/sh
# Safe path: the engine starts plugins in folders whose modules must not shadow ours.
PYTHONSAFEPATH=1 PYTHONPATH={project} exec {python} -m sandbox.stand_in {plugin} \\
  --kubeconfig {kubeconfig} --parent $PPID "$@"
"""


def install(folder: Path, kubeconfig: Path, python: Path = Path(sys.executable)) -> Path:
    """Write both plugins into `folder`, tied to `kubeconfig`; return the folder to put on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for plugin in ("kubernetes", "random"):
        script = folder / f"pulumi-resource-{plugin}"
        script.write_text(
            WRAPPER.format(
                project=shlex.quote(str(PROJECT)),
                # Not resolved: the link in a virtual environment is what finds its packages.
                python=shlex.quote(str(python.absolute())),
                plugin=plugin,
                kubeconfig=shlex.quote(str(kubeconfig.resolve())),
            )
        )
        script.chmod(0o755)
    return folder.resolve()
