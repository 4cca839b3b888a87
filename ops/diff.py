"""Report what a change will do, as Markdown for a pull request."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from ops.changes import Difference, Made, load
from ops.render import to_yaml
from ops.risks import TOPICS, risks

LIMIT = 65536
"""Characters that GitHub takes in a comment."""
LINES = 400
"""Lines of one resource's diff; what is longer is no reading for a comment."""
WIDTH = 300
SAME = "No change to what the program makes."
LEFT_OUT = "\n_Left out for length, see the program itself: {}._\n"
RESERVE = len(LEFT_OUT) + 20


def report(difference: Difference, limit: int = LIMIT) -> str:
    """Write the report, of at most `limit` characters."""
    bodies = [*_bodies(difference)]
    if not bodies:
        return f"{SAME}\n"
    counts = {
        "added": len(difference.added),
        "changed": len(difference.changed),
        "removed": len(difference.removed),
    }
    text = f"**{', '.join(f'{count} {what}' for what, count in counts.items() if count)}**\n"
    known = risks(difference)
    for topic in TOPICS:
        if found := [risk.text for risk in known if risk.topic == topic]:
            text += f"\n### {topic}\n\n" + "".join(f"- {line}\n" for line in found)
    if not known:
        text += "\nNothing restarts, is replaced, opened or lost that the rules know of.\n"
    # The risks come whole, or as many lines of them as there is room for.
    if len(text) > limit - RESERVE:
        return text[: text.rindex("\n", 0, limit - RESERVE)] + "\n" + LEFT_OUT.format("the rest")
    return _fitted(text, bodies, limit - RESERVE)


def _fitted(text: str, bodies: list[tuple[str, str]], room: int) -> str:
    """Add the bodies to `text` that have room, then how many had not."""
    left_out, shown = 0, ""
    for component, body in bodies:
        block = (f"\n### {component}\n" if component != shown else "") + body
        if len(text) + len(block) > room:
            left_out += 1
            continue
        text, shown = text + block, component
    return text + (LEFT_OUT.format(f"{left_out} diffs") if left_out else "")


def _bodies(difference: Difference) -> Iterator[tuple[str, str]]:
    """Yield a folded diff for each resource, after the component that has it."""
    found = [
        *((made, "added", None, made) for made in difference.added),
        *((changed.new, "changed", changed.old, changed.new) for changed in difference.changed),
        *((made, "removed", made, None) for made in difference.removed),
    ]
    for made, what, old, new in sorted(found, key=lambda each: (each[0].component, each[0].key)):
        # Less the two lines that name files.
        lines = [*difflib.unified_diff(_lines(old), _lines(new), lineterm="")][2:]
        yield made.component, _folded(f"{what} {made.title}", lines)


def _lines(made: Made | None) -> list[str]:
    if not made:
        return []
    return to_yaml({"options": made.options, "properties": made.properties}).splitlines()


def _folded(summary: str, lines: list[str]) -> str:
    shown = [line if len(line) <= WIDTH else f"{line[:WIDTH]}…" for line in lines[:LINES]]
    if len(lines) > LINES:
        shown.append(f"… and {len(lines) - LINES} lines more")
    head = f"<details><summary>{summary.replace('`', '')}</summary>"
    block = fenced("\n".join(shown), "diff")
    return f"\n{head}\n\n{block}\n\n</details>\n"


def fenced(text: str, language: str = "") -> str:
    """Write `text` as a Markdown code block that nothing in it can end."""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in ["", *re.findall("`+", text)]))
    return f"{fence}{language}\n{text}\n{fence}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", type=Path, help="rendered folder, before the change")
    parser.add_argument("head", type=Path, help="rendered folder, after it")


def run(options: argparse.Namespace) -> int:
    """Print the report; 1 is an error in one line."""
    try:
        print(report(Difference(load(options.base), load(options.head))), end="")
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0
