"""`python -m ops COMMAND`: what is done to a stack besides `pulumi up`."""

import argparse
import gc
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "doctor": "check what an `up` needs and, after it, whether everything answers",
    "drift": "compare the cluster with the stack's state",
    "issue": "keep one GitHub issue open for as long as there is drift",
    "diff": "preview the working tree against a commit, on a cluster of its own",
    "recover": "take up what an interrupted `up` has left",
    "restore": "restore a backup of the chats, or list the backups",
}
"""Modules of this package, each with `arguments(parser)` and `run(options)`."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code; a wrong command line exits with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m ops",
        description=__doc__,
        epilog="\n".join(f"{name:9}{text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments[:1]).command
    # Only this one, because importing the Kubernetes client alone takes a second.
    module = import_module(f"ops.{command}")
    options = argparse.ArgumentParser(prog=f"python -m ops {command}", description=module.__doc__)
    module.arguments(options)
    chosen = options.parse_args(arguments[1:])
    try:
        return int(module.run(chosen))
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # Pulumi's SDK has many classes, and all of them stay.
    gc.disable()
    sys.exit(main(sys.argv[1:]))
