"""The sandbox's provider for RandomPassword."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from harness import ROOT

# In another process: both the SDK's provider server and OpenTelemetry register google.rpc.Status.
PROGRAM = """
import json, sys
from sandbox.random_provider import DEFAULTS, password, problem
inputs = DEFAULTS | json.loads(sys.argv[1])
print(json.dumps((problem(inputs) or [""])[0] or [password(inputs) for _ in range(9)]))
"""
NONE = dict.fromkeys(("upper", "lower", "numeric", "special"), False)


def outcome(inputs: dict[str, Any]) -> Any:
    """Return nine passwords with these inputs, or the name of the invalid property."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(inputs)]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("inputs", "characters"),
    [({"special": False}, "[A-Za-z0-9]"), ({**NONE, "numeric": True}, "[0-9]")],
)
def test_a_password_has_only_the_enabled_characters(
    inputs: dict[str, Any], characters: str
) -> None:
    passwords = outcome({"length": 24.0, **inputs})

    assert len(set(passwords)) == 9
    assert all(re.fullmatch(f"{characters}{{24}}", password) for password in passwords)


@pytest.mark.parametrize(
    ("inputs", "invalid"),
    [
        ({}, "length"),
        ({"length": 0.0}, "length"),
        ({"length": 9.0, "minLower": 2.0}, "minLower"),
        ({"length": 9.0, **NONE}, "special"),
    ],
)
def test_invalid_inputs_are_refused(inputs: dict[str, Any], invalid: str) -> None:
    assert outcome(inputs) == invalid
