"""Waits for a condition."""

from collections.abc import Callable
from typing import Any

from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_exponential


def eventually(condition: Callable[[], Any], seconds: float = 300) -> Any:
    """Return the first true result of `condition`, or its last one after `seconds`.

    It is called every 0.1 s at least. The longest waits are Open WebUI's start, 30 s, and an
    evaluation of rules, 60 s.
    """
    waiting = Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.002, max=0.1),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return waiting(condition)
