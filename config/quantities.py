"""Conversion of Kubernetes quantities of memory and storage."""

import re

UNITS = {
    **{unit: 1000 ** (power + 1) for power, unit in enumerate("kMGT")},
    **{f"{unit}i": 1024 ** (power + 1) for power, unit in enumerate("KMGT")},
}
PATTERN = rf"^([0-9]{{1,15}}(?:\.[0-9]{{1,9}})?)({'|'.join(UNITS)})$"


def size(text: str) -> int:
    """Return the bytes of a quantity with a unit, such as `24Gi`; raises ValueError."""
    if not (match := re.fullmatch(PATTERN, text)):
        raise ValueError(f"got {text!r}, want a size with its unit, such as 100Gi")
    return int(float(match[1]) * UNITS[match[2]])


def gib(number: float) -> str:
    """Return bytes as GiB with at most one decimal, such as `24 GiB`."""
    return f"{number / 1024**3:.1f}".removesuffix(".0") + " GiB"
