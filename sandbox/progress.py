"""Progress of an `up`: the engine's lines and, while they wait, what each pod waits for."""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Lock, Thread

from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import waits
from ops.waits import STUCK

SLOW = 5
"""Seconds from which a pod that waits is shown on a terminal."""


class Progress:
    """Prints lines, and below them one for each pod that waits, which is replaced every second.

    Without a terminal, each reason of a wait is one line, once.
    """

    def __init__(self, context: str, kubeconfig: Path) -> None:
        self._cluster = Cluster(context, kubeconfig)
        self._is_terminal = sys.stdout.isatty()
        self._printed = set[str]()
        self._live = list[str]()
        self._lock, self._end = Lock(), Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._draw([])

    def say(self, line: str) -> None:
        """Print a line, above those of the pods."""
        self._draw(self._live, line)

    def show(self, ages: Mapping[str, float]) -> None:
        """Show why pods wait, and since how many seconds."""
        if self._is_terminal:
            self._draw([f"{age:.0f} s: {why}" for why, age in ages.items() if age >= SLOW])
            return
        for reason in [reason for reason, age in ages.items() if age >= STUCK]:
            if reason not in self._printed:
                self._printed.add(reason)
                self.say(f"waiting for {STUCK} s: {reason}")

    def _run(self) -> None:
        while not self._end.wait(1):
            # A cluster that does not answer is the engine's to report.
            with contextlib.suppress(UnreadableError):
                self.show(waits(self._cluster))

    def _draw(self, live: list[str], line: str = "") -> None:
        """Replace the lines of the pods by `live`, below `line`."""
        width = shutil.get_terminal_size().columns - 3
        with self._lock:
            # Moves up to the first of them, and clears the screen below.
            print(f"\x1b[{len(self._live)}A\x1b[J" if self._live else "", end="")
            for text in filter(None, [line, *(" ".join(it.split())[:width] for it in live)]):
                print(f"  {text}")
            sys.stdout.flush()
            self._live = live
