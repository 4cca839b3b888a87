"""Passwords where the official `random` plugin cannot be had."""

import re
from typing import Any

import pytest

from sandbox.random_provider import CLASSES, DEFAULTS, password, problem


def test_a_password_is_of_the_characters_that_were_asked_for() -> None:
    inputs = {**DEFAULTS, "length": 24.0, "special": False}
    made = {password(inputs) for _ in range(9)}

    assert len(made) == 9
    assert all(re.fullmatch("[A-Za-z0-9]{24}", one) for one in made)
    digits = {**inputs, "upper": False, "lower": False}
    assert re.fullmatch("[0-9]{24}", password(digits))


@pytest.mark.parametrize(
    ("inputs", "at"),
    [
        ({}, "length"),
        ({"length": 0.0}, "length"),
        ({"length": 9.0, "minLower": 2.0}, "minLower"),
        (
            {"length": 9.0, **dict.fromkeys(CLASSES, False)},
            "special",
        ),
    ],
)
def test_what_no_password_can_have_is_refused(inputs: dict[str, Any], at: str) -> None:
    found = problem({**DEFAULTS, **inputs})

    assert found
    assert found[0] == at
