"""Lines of an `up`: the engine's, and live below them what its pods wait for."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

from rich import get_console
from rich.live import Live
from rich.text import Text

from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import waits

# Lines of the engine about work that goes on, a refresh or an unchanged resource.
IDLE = re.compile(
    r"@|.*ing \([0-4]s\)( |$)|.* refresh \([\d.]+m?s\)$|.*using pulumi-resource-"
    r"|.*the wrong version may be on your path"
    r"|[\s~+-]*pulumi:pulumi:Stack|\s+\S+:\S+:\S+ \S+\s*$|Diagnostics:"
    r"|If you want to remove|The resources in|\s*$"
)
SLOW = 5
"""Seconds from which a pod that waits is shown."""


@contextlib.contextmanager
def progress(context: str, kubeconfig: Path) -> Iterator[None]:
    """Show a line for each slow pod, asked for every second.

    It shows none without a terminal, where the program logs long waits (`ops/waits.py`).
    """
    cluster, ended = Cluster(context, kubeconfig), Event()

    def watch() -> None:
        while not ended.wait(1):
            # A cluster that does not answer is the engine's to report.
            with contextlib.suppress(UnreadableError):
                slow = [
                    f"  {age:.0f} s: {why}" for why, age in waits(cluster).items() if age >= SLOW
                ]
                live.update(Text("\n".join(slow), no_wrap=True, overflow="ellipsis"))

    with Live(transient=True, redirect_stdout=False) as live:
        if live.console.is_terminal:
            Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def say(line: str) -> None:
    """Print a line of the engine, above those of the pods, unless it is IDLE."""
    if not IDLE.match(line):
        get_console().print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
