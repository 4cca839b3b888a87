"""Waiting for what happens in its own time."""

from collections.abc import Callable
from typing import Any

from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_exponential


def eventually(what: Callable[[], Any], seconds: float = 300) -> Any:
    """Give the first true answer, or the last one after `seconds`; asks at most 0.1 s apart.

    Open WebUI starts anew in some 30 seconds, and one group of rules has a minute.
    """
    waiting = Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.002, max=0.1),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    return waiting(what)
