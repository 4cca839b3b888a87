"""Images, charts and models' digests, old and new."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from packaging.version import Version

from ops.changes import RELEASE, Difference, Made, code

MODELS = "outputs"
"""The rendered entry whose `models` are all that there should be, with their `model_digests`."""


class Bump(NamedTuple):
    """One image, chart or model that is another after a change."""

    kind: str
    """`image`, `chart` or `model`."""
    names: tuple[str, ...]
    """The containers with the image, the release of the chart, or the model."""
    old: str
    """The whole reference, the chart's version, or the model's digest."""
    new: str


def bumps(difference: Difference) -> Iterator[Bump]:
    """Yield each image, chart and model's digest that is another, once."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for changed in difference.changed:
        old, new = changed.old.properties.get("version"), changed.new.properties.get("version")
        if changed.new.type == RELEASE and old != new:
            yield Bump("chart", (changed.new.name,), str(old), str(new))
        before = {container["name"]: container["image"] for container in changed.old.containers()}
        for container in changed.new.containers():
            image = before.get(container["name"], container["image"])
            if image != container["image"]:
                found[image, container["image"]].append(container["name"])
    for (image, other), names in found.items():
        yield Bump("image", tuple(names), image, other)
    was, now = (_digests(folder.get(MODELS)) for folder in (difference.base, difference.head))
    for model in sorted(was.keys() & now.keys()):
        if was[model] != now[model]:
            yield Bump("model", (model,), was[model], now[model])


def lines(difference: Difference) -> Iterator[str]:
    """Yield a line for each chart, each image and each model's digest that changes."""
    for bump in bumps(difference):
        what = "image of" if bump.kind == "image" else bump.kind
        names = ", ".join(map(code, bump.names))
        old, new = (code(one or "no digest") for one in (bump.old, bump.new))
        yield ", ".join([f"{what} {names}: {old} → {new}", *_warnings(bump)])


def _warnings(bump: Bump) -> Iterator[str]:
    old, new = _version(bump.old), _version(bump.new)
    if old and new and new < old:
        yield "**older than before**: data may not open"
    if _digest(bump.old) and not _digest(bump.new):
        yield "**no longer pinned by digest**"
    if old and old == new and _digest(bump.old) and _digest(bump.new):
        yield "**the same version with other contents**"


def _version(reference: str) -> Version | None:
    """The version in an image's tag or of a chart, None if there is none."""
    found = re.search(r"(?:^|:)v?(\d+\.\d+\.\d+(?:-(?:alpha|beta|rc)[.\d]*)?)", reference)
    return Version(found[1]) if found else None


def _digest(reference: str) -> str:
    """The digest in a reference, empty if there is none."""
    return found[0] if (found := re.search(r"[0-9a-f]{64}$", reference)) else ""


def _digests(outputs: Made | None) -> dict[str, str]:
    """The digest of each declared model, empty where none is."""
    told = outputs.properties if outputs else {}
    digests = told.get("model_digests", {})
    return {model: digests.get(model, "") for model in told.get("models", [])}
