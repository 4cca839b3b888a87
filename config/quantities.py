"""Kubernetes quantities of memory, disk and cpu, as numbers and back."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

_UNITS = {
    **{unit: 1000 ** (power + 1) for power, unit in enumerate(("k", "M", "G", "T"))},
    **{unit: 1024 ** (power + 1) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"))},
}


class Request(NamedTuple):
    """What pods ask of a node: cores, and bytes of memory."""

    cpu: float
    memory: int

    def plus(self, other: Self) -> "Request":
        """Both together."""
        return Request(self.cpu + other.cpu, self.memory + other.memory)


def size(text: str) -> int:
    """Bytes of a quantity such as `24Gi`; raises ValueError if it is none or is zero."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]+)", text)
    if not match or match[2] not in _UNITS or float(match[1]) == 0:
        raise ValueError(f"{text!r} must be a size with its unit, such as 500Mi, 24Gi or 1Ti")
    return int(float(match[1]) * _UNITS[match[2]])


def gib(number: float) -> str:
    """Bytes for a person, in GiB with one decimal at most."""
    return f"{number / 1024**3:.1f}".removesuffix(".0") + " GiB"


def requested(values: Mapping[str, Any]) -> Request:
    """Sum every `resources.requests` in a chart's values, each counted for one container."""
    total = Request(0.0, 0)
    for key, value in values.items():
        if key == "resources" and "requests" in value:
            cpu, memory = str(value["requests"]["cpu"]), value["requests"]["memory"]
            cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
            total = total.plus(Request(cores, size(memory)))
        elif isinstance(value, Mapping):
            total = total.plus(requested(value))
    return total
