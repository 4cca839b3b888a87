"""Give an Ollama server the models that are declared, and end well only if it has them."""

import fcntl
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from model_house import House, Model
from model_ledger import Ledger
from pull_models import FOLDER, HOST, PullError, wait


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other Job is at work here: the one of another list may still be running."""
    with (FOLDER / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another run, which works on the same models")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run(declared: list[Model], *, dry_run: bool) -> int:
    """Say what is to be done, do it, and return the exit code."""
    version = wait()
    print(f"Ollama {version} answers")
    house = House(declared, Ledger(FOLDER))
    steps = [*house.plan()]
    for step in steps:
        print(f"plan: {step}")
    if dry_run:
        print(f"dry run: nothing of this was done, {len(steps)} lines")
        return 0
    house.carry_out()
    width = max(len(model.name) for model in declared)
    for model in declared:
        if found := house.there.get(model.key):
            row = f"{model.name:<{width}}  {found.size / 1e9:8.2f} GB  {found.digest}"
            print(f"{row}  {house.how[model.name]}")
    if house.failed:
        reasons = "; ".join(f"{name} - {why}" for name, why in house.failed.items())
        print(f"failed on Ollama {version}: {reasons}")
        return 1
    print(f"as declared: {len(declared)} models; {house.done()}")
    return 0


def stop(number: int, _frame: object) -> NoReturn:
    """End at once, with the exit code a shell gives for the signal."""
    os.write(1, b"stopped by a signal; the next run goes on with what is there\n")
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Run the program and return its exit code."""
    files = [one for one in arguments if one != "--dry-run"]
    if len(files) != 1 or not HOST:
        usage = "usage: OLLAMA_URL=http://host:11434 reconcile_models.py [--dry-run] FILE"
        print(usage, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, stop)
    try:
        declared = [Model(**one) for one in json.loads(Path(files[0]).read_text())]
        if "--dry-run" in arguments:
            return run(declared, dry_run=True)
        with alone():
            return run(declared, dry_run=False)
    except PullError as error:
        print(f"failed: {error}")
    except (OSError, ValueError, TypeError) as error:
        print(f"failed: {type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
