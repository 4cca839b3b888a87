"""Show a stack's status on one screen, from its cluster and Prometheus, read-only.

Exit code 0 means healthy, 1 that something is not ready, an alert fires or a section could not be
read.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from components import CHART_VALUES
from config import SettingsError, requested
from ops import stacks
from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import Line, addresses, last_up, pods, span
from ops.status_metrics import alerts, disks, last_backup, models, tokens_per_second

SECTIONS = (pods, addresses, models, tokens_per_second, disks, last_backup, alerts, last_up)
WIDTH = 100
"""Maximum line length, in columns."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Read all sections in parallel, print them and return the exit code."""
    try:
        settings = stacks.settings(options.stack, requested(CHART_VALUES))
        cluster = Cluster(settings.context)
        print(f"asking {cluster.configuration.host}", file=sys.stderr)
        # Fails once if the API server does not answer, instead of in each section.
        cluster.read("/version")
    except (SettingsError, UnreadableError) as error:
        if options.json:
            print(json.dumps({"stack": options.stack, "unread": {"all": str(error)}, "code": 1}))
        print(f"error: {error}", file=sys.stderr)
        return 1

    def show(*lines: str) -> None:
        if not options.json:
            print(*lines, sep="\n", flush=True)

    facts, unread, unhealthy = dict[str, Any](), dict[str, str](), list[str]()
    with ThreadPoolExecutor(len(SECTIONS)) as pool:
        futures = {read.__name__: pool.submit(read, cluster, settings) for read in SECTIONS}
        for key, future in futures.items():
            show(key.replace("_", " "))
            try:
                lines = future.result()
                show(*format_lines(lines))
                facts[key] = [line.fact for line in lines]
            # An unexpected error must not hide the other sections.
            except Exception as error:
                reason = str(error) if isinstance(error, UnreadableError) else repr(error)
                same = next((f", as {other}" for other in unread if unread[other] == reason), "")
                show(*_wrap(f"could not be read{same or f': {reason}'}"))
                unread[key] = reason
            if key in unread or any("problem" in fact for fact in facts[key]):
                unhealthy.append(key)
    code = int(bool(unhealthy))
    if options.json:
        report = {"stack": options.stack, **facts, "unread": unread, "code": code}
        print(json.dumps(report, indent=1))
    summary = f"not healthy: {', '.join(unhealthy)}" if unhealthy else "healthy"
    show(f"{options.stack}: {summary}")
    return code


def format_lines(lines: Sequence[Line]) -> Iterator[str]:
    """Yield a section's lines, of at most WIDTH columns."""
    for name, text, fact in lines:
        width = WIDTH - len(text) - 4
        short = name if len(name) <= width else f"{name[: width - 1]}…"
        yield f"  {short:<{width}}  {text}".rstrip()
        if problem := fact.get("problem"):
            since = f", for {span(fact['since'])}" if "since" in fact else ""
            yield from _wrap(problem + since, " " * 6)
    if not lines:
        yield "  none"


def _wrap(text: str, indent: str = "  ") -> list[str]:
    lines = textwrap.wrap(text, WIDTH - len(indent), max_lines=3, placeholder=" …")
    return [indent + line for line in lines]
