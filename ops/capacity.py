"""What the pods and volumes ask of each machine, and what it has."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from config.quantities import gib
from ops.changes import RELEASE, Difference, Made, code
from ops.replaced import quantity

NODES = "nodes"
"""Key of the entry with the machines as the stack file describes them."""
LABEL = "kubernetes.io/hostname"
MEASURES = ("memory requests", "memory limits", "cpu requests", "volumes")
# What each is held against, in a machine's section of the stack file.
HAS = dict(zip(MEASURES, ("memory", "memory", "cpus", "disk"), strict=True))


def lines(difference: Difference) -> Iterator[str]:
    """Yield a line for each model that comes or goes, and each sum on a machine that changes."""
    yield from _models(difference)
    old, new = _asked(difference.base), _asked(difference.head)
    had, has = _machines(difference.base), _machines(difference.head)
    for node, measure in sorted({*old, *new}):
        key = (node, measure)
        room = _room(has.get(node, {}), measure)
        if (old[key], _room(had.get(node, {}), measure)) == (new[key], room):
            continue
        line = f"{code(node)} {measure}: {_said(measure, old[key])} → {_said(measure, new[key])}"
        if room is None:
            yield f"{line}; the stack file has no such machine"
            continue
        over = "**more than the machine has**, " if new[key] > room else ""
        yield f"{line} of {_said(measure, room)} ({over}{new[key] / room:.0%})"


def _models(difference: Difference) -> Iterator[str]:
    for changed in difference.changed:
        if changed.new.key == "outputs":
            old, new = (set(one.properties.get("models", [])) for one in (changed.old, changed.new))
            for model in sorted(new - old):
                yield f"model {code(model)} is downloaded"
            for model in sorted(old - new):
                goes = "the Job deletes it, if it had pulled it"
                yield f"model {code(model)} is declared no longer: {goes}"


def _said(measure: str, number: float) -> str:
    return f"{number:g} cores" if measure.startswith("cpu") else gib(number)


def _machines(made: dict[str, Made]) -> dict[str, Any]:
    return made[NODES].properties if NODES in made else {}


def _room(machine: dict[str, Any], measure: str) -> float | None:
    if HAS[measure] not in machine:
        return None
    has = machine[HAS[measure]]
    return float(quantity(has["size"] if measure == "volumes" else has))


def _asked(everything: dict[str, Made]) -> defaultdict[tuple[str, str], float]:
    """Sum what is asked, by machine and measure; a Job counts like what always runs."""
    total: defaultdict[tuple[str, str], float] = defaultdict(float)
    first = next(iter(_machines(everything)), "any machine")
    for made in everything.values():
        pod = (made.spec.get("template") or {}).get("spec") or {}
        if made.kind == "PersistentVolume":
            (term,) = made.spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
            node = term["matchExpressions"][0]["values"][0]
            total[node, "volumes"] += float(quantity(made.spec["capacity"]["storage"]))
            continue
        if made.type == RELEASE:
            tree = made.properties.get("values", {})
            server = (tree.get("prometheus") or {}).get("prometheusSpec") or {}
            node, times = (server.get("nodeSelector") or {}).get(LABEL, first), 1
        elif pod:
            tree, times = {"containers": [*made.containers()]}, made.spec.get("replicas", 1)
            node = (pod.get("nodeSelector") or {}).get(LABEL, first)
        else:
            continue
        for bound, resource in (("requests", "memory"), ("limits", "memory"), ("requests", "cpu")):
            total[node, f"{resource} {bound}"] += times * sum(_found(tree, bound, resource))
    return total


def _found(tree: Any, bound: str, resource: str) -> Iterator[float]:
    """Yield each `resources.<bound>.<resource>` in a pod or a chart's values."""
    if isinstance(tree, dict):
        asked = tree.get("resources")
        if isinstance(asked, dict) and resource in (asked.get(bound) or {}):
            yield float(quantity(asked[bound][resource]))
        for value in tree.values():
            yield from _found(value, bound, resource)
    elif isinstance(tree, list):
        for item in tree:
            yield from _found(item, bound, resource)
