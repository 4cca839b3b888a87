"""Reasons of pods that wait, beside the lines of `pulumi up`, which knows no events of pods."""

import asyncio
import contextlib
import time
from contextvars import copy_context
from threading import Thread

import pulumi

from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import waits

STUCK = 30
"""Seconds from which a pod's wait is named."""
INTERVAL = 5
"""Seconds between two looks."""


def log_waits(context: str) -> None:
    """Log, until this program's `up` has ended, what pods wait for: each reason once.

    In a preview, it does nothing.
    """
    if pulumi.runtime.is_dry_run():
        return
    # A cluster that cannot be reached is the provider's to report.
    with contextlib.suppress(UnreadableError):
        cluster = Cluster(context)
        # The SDK has its connection to the engine in the context.
        watch, loop = copy_context().run, asyncio.get_running_loop()
        Thread(target=watch, args=(_watch, cluster, loop), daemon=True).start()


def _watch(cluster: Cluster, loop: asyncio.AbstractEventLoop) -> None:
    logged = set[str]()
    time.sleep(INTERVAL)
    while not loop.is_closed():
        # Whatever fails here must not disturb `up`.
        with contextlib.suppress(Exception):
            for reason, age in waits(cluster).items():
                if age >= STUCK and reason not in logged and not loop.is_closed():
                    logged.add(reason)
                    # Ephemeral: shown while it lasts, not in the summary of an `up` that goes well.
                    pulumi.log.warn(f"{reason}, for {age:.0f} s", ephemeral=True)
        time.sleep(INTERVAL)
