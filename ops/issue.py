"""Check for drift, and keep a GitHub issue open while there is drift."""

import argparse
import json
import re
import subprocess
import sys
import textwrap

from ops.drift import DRIFT

LIMIT = 65536
"""Maximum of characters in an issue or a comment on GitHub."""
# Lines of `make drift` about an interrupted run.
UNFINISHED = re.compile(r"^ *(helm|pulumi): ", re.MULTILINE)
HEAD = "The cluster differs from the stack. How to answer: docs/operate.md#drift.\n\n"


def run(options: argparse.Namespace) -> int:
    """Print the drift and update the issue; returns 1 if either fails."""
    command = [sys.executable, "-m", "ops", "drift", "--stack", options.stack]
    drift = subprocess.run(command, capture_output=True, text=True, check=False)
    print(drift.stdout, end="")
    print(drift.stderr, end="", file=sys.stderr)
    if drift.returncode not in (0, DRIFT):
        return 1
    try:
        result = update_issue(options.stack, drift.stdout if drift.returncode == DRIFT else "")
    except subprocess.CalledProcessError as error:
        print(f"error: gh {error.cmd[2]}: {' '.join(error.stderr.split())}", file=sys.stderr)
        return 1
    print(result)
    return 0


def update_issue(stack: str, report: str) -> str:
    """Create or edit the issue with this `report` of drift, or close it if there is none.

    Returns a line about it. Raises CalledProcessError if `gh` fails.
    """
    title = f"Drift: {stack}"
    # A code block in Markdown; leaves 500 characters for the text around it.
    report = textwrap.indent(report.rstrip(), "    ")[: LIMIT - 500]
    body = HEAD + report
    if UNFINISHED.search(report):
        command = f"make recover STACK={stack}"
        body = f"An `up` was cut off: first `{command}` (docs/runbook.md).\n\n{body}"
    # Only issues of the workflow, because anybody may open one with the same title.
    own = ("--app", "github-actions", "--state", "open", "--limit", "200")
    issues = json.loads(_gh("list", *own, "--json", "number,title,body"))
    issue = next((issue for issue in issues if issue["title"] == title), None)
    if not issue:
        if not report:
            return "no issue"
        return _gh("create", "--title", title, "--body-file", "-", stdin=body)
    number = str(issue["number"])
    if not report:
        _gh("close", number, "--comment", "The cluster matches the stack again.")
        return f"closed #{number}"
    # A body edited in a browser has CRLF line ends.
    if issue["body"].replace("\r\n", "\n").strip() == body.strip():
        return f"#{number} is up to date"
    _gh("edit", number, "--body-file", "-", stdin=body)
    _gh("comment", number, "--body-file", "-", stdin=f"The drift changed:\n\n{report}")
    return f"updated #{number}"


def _gh(*arguments: str, stdin: str = "") -> str:
    """Run `gh issue` and return its output."""
    command = ["gh", "issue", *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return result.stdout.strip()
