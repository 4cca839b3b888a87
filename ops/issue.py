"""Look for drift, and keep one GitHub issue open for as long as there is some."""

import argparse
import json
import re
import subprocess
import sys

from ops.drift import DRIFT
from ops.releases import recover

LIMIT = 65536
"""Characters that GitHub takes in an issue or a comment."""
# How drift begins the line of a run that was cut off.
UNFINISHED = re.compile(r"^ *(helm|pulumi): ", re.MULTILINE)
HEAD = "What runs is not what the program says. How to answer: docs/operate.md#drift.\n\n"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--stack", required=True, help="the stack to compare")


def run(options: argparse.Namespace) -> int:
    """Print the drift and bring the issue up to date; 1 where that was not possible."""
    command = [sys.executable, "-m", "ops", "drift", "--stack", options.stack]
    looked = subprocess.run(command, capture_output=True, text=True, check=False)
    print(looked.stdout, end="")
    print(looked.stderr, end="", file=sys.stderr)
    if looked.returncode not in (0, DRIFT):
        return 1
    try:
        done = keep(options.stack, looked.stdout if looked.returncode == DRIFT else "")
    except subprocess.CalledProcessError as error:
        print(f"error: gh {error.cmd[2]}: {' '.join(error.stderr.split())}", file=sys.stderr)
        return 1
    print(done)
    return 0


def keep(stack: str, table: str) -> str:
    """Have one open issue with this `table` of drift, or none if it is empty; say what was done.

    Raises CalledProcessError if GitHub refuses.
    """
    title = f"Drift: {stack}"
    # Less some room for the words and the fences around it.
    table = table.rstrip()[: LIMIT - 500]
    body = HEAD + fenced(table)
    if UNFINISHED.search(table):
        body = f"An `up` was cut off: first `{recover(stack)}` (docs/runbook.md).\n\n{body}"
    # Its own alone: anybody may open one of the same title.
    mine = ("--app", "github-actions", "--state", "open", "--limit", "200")
    listed = json.loads(_gh("list", *mine, "--json", "number,title,body"))
    found = [issue for issue in listed if issue["title"] == title]
    if not found:
        if not table:
            return "no issue"
        return _gh("create", "--title", title, "--body-file", "-", said=body)
    number = str(found[0]["number"])
    if not table:
        _gh("close", number, "--comment", "The house is again what the program says.")
        return f"closed #{number}"
    # Written by a browser, lines end otherwise.
    if found[0]["body"].replace("\r\n", "\n").strip() == body.strip():
        return f"#{number} says it already"
    _gh("edit", number, "--body-file", "-", said=body)
    _gh("comment", number, "--body-file", "-", said=f"It changed:\n\n{fenced(table)}")
    return f"told in #{number}"


def _gh(*arguments: str, said: str = "") -> str:
    """Run one of GitHub's own commands for issues, with `said` as its input."""
    command = ["gh", "issue", *arguments]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def fenced(text: str) -> str:
    """Write `text` as a Markdown code block that nothing in it can end."""
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in ["", *re.findall("`+", text)]))
    return f"{fence}\n{text}\n{fence}"
