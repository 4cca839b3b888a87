"""Commands on a stack besides `pulumi up`: `python -m ops COMMAND`."""

import argparse
import gc
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from config.errors import SettingsError
from ops.cluster import UnreadableError

COMMANDS = {
    "init": "write a server's stack file from its cluster",
    "doctor": "check the requirements of `up` and, after it, that everything answers",
    "status": "show the stack's status on one screen",
    "drift": "compare the cluster with the stack's state",
    "issue": "keep a GitHub issue open while there is drift",
    "diff": "preview the working tree against a commit, on a temporary cluster",
    "recover": "repair the stack after an interrupted `up`",
    "restore": "restore a backup of the chats, or list the backups",
}
"""Modules of this package with `run(options)`, and `arguments(parser)` if they have options."""


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; an invalid command line exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ops",
        usage="%(prog)s COMMAND [options]",
        description=__doc__,
        epilog="\n".join(f"{name:9}{text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments[:1]).command
    # Imported when needed, because importing the Kubernetes client takes a second.
    module = import_module(f"ops.{command}")
    name = f"python -m ops {command}"
    parser = argparse.ArgumentParser(name, f"{name} [options]", description=module.__doc__)
    parser.add_argument("--stack", required=True, help="the stack, of Pulumi.STACK.yaml")
    if hasattr(module, "arguments"):
        module.arguments(parser)
    options = parser.parse_args(arguments[1:])
    # Pulumi's rule (3.229: sdk/go/common/tokens/names.go); a path would select another file.
    if not re.fullmatch(r"[\w.-]{1,100}", options.stack, re.ASCII):
        want = "a stack's name, such as home"
        print(f"error: STACK: got {options.stack!r}, want {want}", file=sys.stderr)
        return 1
    try:
        return int(module.run(options))
    except (SettingsError, UnreadableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted; run the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # Pulumi's SDK has many classes, which are never collected.
    gc.disable()
    sys.exit(main(sys.argv[1:]))
