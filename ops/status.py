"""Show on one screen how a stack is, by its cluster and its Prometheus; nothing is changed.

Exit code 0 is that all is well, 1 that something is not ready, fires or could not be read.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from components import CHART_VALUES
from config import SettingsError, read, requested
from config.stack_file import project_keys, read_config
from ops import stacks
from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import Line, addresses, last_up, pods, span
from ops.status_metrics import alerts, disks, last_backup, models, tokens_per_second

SECTIONS = (pods, addresses, models, tokens_per_second, disks, last_backup, alerts, last_up)
WIDTH = 100
"""Columns of the screen."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", default="sandbox", help="the stack to show")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(options: argparse.Namespace) -> int:
    """Read all sections at once, print them, and give the exit code."""
    try:
        keys = project_keys(read_config(stacks.PROJECT / f"Pulumi.{options.stack}.yaml"))
        settings = read(keys, requested(CHART_VALUES))
        # Any other is reached without the CLI.
        sandbox = stacks.find("sandbox") if options.stack == "sandbox" else None
        cluster = Cluster(settings.context, sandbox.kubeconfig if sandbox else None)
        print(f"asking {cluster.configuration.host}", file=sys.stderr)
        # Where nothing answers, one line says so, and not one for each section.
        cluster.read("/version")
    except (SettingsError, UnreadableError) as error:
        if options.json:
            print(json.dumps({"stack": options.stack, "unread": {"all": str(error)}, "code": 1}))
        print(f"error: {error}", file=sys.stderr)
        return 1

    def show(*lines: str) -> None:
        if not options.json:
            print(*lines, sep="\n", flush=True)

    facts, unread, bad = dict[str, Any](), dict[str, str](), list[str]()
    with ThreadPoolExecutor(len(SECTIONS)) as pool:
        reads = {look.__name__: pool.submit(look, cluster, settings) for look in SECTIONS}
        for key, reading in reads.items():
            show(key.replace("_", " "))
            try:
                lines = reading.result()
                show(*written(lines))
                facts[key] = [line.fact for line in lines]
            # An error that nobody has foreseen must not hide the other sections.
            except Exception as error:
                why = str(error) if isinstance(error, UnreadableError) else repr(error)
                same = next((f", as {other}" for other in unread if unread[other] == why), "")
                show(*_wrapped(f"could not be read{same or f': {why}'}"))
                unread[key] = why
            if key in unread or any("problem" in fact for fact in facts[key]):
                bad.append(key)
    if options.json:
        whole = {"stack": options.stack, **facts, "unread": unread, "code": int(bool(bad))}
        print(json.dumps(whole, indent=1))
    show(f"{options.stack}: not well: {', '.join(bad)}" if bad else f"{options.stack}: all is well")
    return int(bool(bad))


def written(lines: Sequence[Line]) -> Iterator[str]:
    """Write a section for a person, in lines of at most WIDTH columns."""
    for name, text, fact in lines:
        room = WIDTH - len(text) - 4
        short = name if len(name) <= room else f"{name[: room - 1]}…"
        yield f"  {short:<{room}}  {text}".rstrip()
        if problem := fact.get("problem"):
            since = f", for {span(fact['since'])}" if "since" in fact else ""
            yield from _wrapped(problem + since, " " * 6)
    if not lines:
        yield "  none"


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    lines = textwrap.wrap(text, WIDTH - len(indent), max_lines=3, placeholder=" …")
    return [indent + line for line in lines]
