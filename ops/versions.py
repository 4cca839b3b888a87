"""Images and charts, old and new."""

import re
from collections import defaultdict
from collections.abc import Iterator

from ops.changes import RELEASE, Difference, code


def lines(difference: Difference) -> Iterator[str]:
    """Yield a line for each chart and each image that changes."""
    bumps: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for changed in difference.changed:
        old, new = changed.old.properties.get("version"), changed.new.properties.get("version")
        if changed.new.type == RELEASE and old != new:
            yield f"chart {code(changed.new.name)}: {_bump(str(old), str(new))}"
        before = {container["name"]: container["image"] for container in changed.old.containers()}
        for container in changed.new.containers():
            image = before.get(container["name"], container["image"])
            if image != container["image"]:
                bumps[image, container["image"]].append(container["name"])
    for (image, other), names in bumps.items():
        yield f"image of {', '.join(map(code, names))}: {_bump(image, other)}"


def _bump(old: str, new: str) -> str:
    versions = [re.search(r"(?:^|:)v?(\d+(?:\.\d+)+)", text) for text in (old, new)]
    numbers = [tuple(map(int, one[1].split("."))) if one else () for one in versions]
    note = ", **older than before**: data may not open" if numbers[1] < numbers[0] else ""
    if "@" in old and "@" not in new:
        note += ", **no longer pinned by digest**"
    if numbers[0] == numbers[1] and "@" in old and "@" in new:
        note += ", **the same version with other contents**"
    return f"{code(old)} → {code(new)}{note}"
