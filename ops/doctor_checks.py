"""What a check is and finds, and how all of them run at once."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Thread
from typing import Literal


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found, in one line."""

    level: Literal["ok", "warn", "fail"]
    text: str
    do: str = ""
    """What sets it right; empty where nothing has to be."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    page: str
    """The section of the documents that says more, from the project's folder."""
    look: Callable[[], Result]
    """Looks; whatever it raises means that it could not."""
    seconds: float = 7
    """How long it may take."""


def ok(text: str) -> Result:
    """Say that it is as it should be."""
    return Result("ok", text)


def warn(text: str, do: str = "") -> Result:
    """Say that it may be wrong, or could not be seen."""
    return Result("warn", text, do)


def fail(text: str, do: str) -> Result:
    """Say that it is wrong."""
    return Result("fail", text, do)


def told(problems: Iterable[str], do: str, good: str) -> Result:
    """Fail with all `problems`, or be well with `good` if there are none."""
    found = "; ".join(problems)
    return fail(found, do) if found else ok(good)


def run(checks: Iterable[Check]) -> list[tuple[Check, Result]]:
    """Run all checks at once; one that cannot look, or not in time, gives a warning."""
    results: dict[str, Result] = {}

    def look(check: Check) -> None:
        try:
            results[check.name] = check.look()
        except Exception as error:  # One that fails in a new way must not take the others along.
            line = " ".join(str(error).split())[:200] or type(error).__name__
            results[check.name] = warn(f"could not be looked at: {line}")

    began = time.monotonic()
    # Daemons: one that hangs must not keep the process, as a pool's would.
    threads = [(one, Thread(target=look, args=[one], daemon=True)) for one in checks]
    for _, thread in threads:
        thread.start()
    for check, thread in threads:
        thread.join(max(0.0, began + check.seconds - time.monotonic()))
    late = "could not be looked at: no answer within {:g} s"
    return [
        (check, results.get(check.name) or warn(late.format(check.seconds))) for check, _ in threads
    ]
