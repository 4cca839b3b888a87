"""How a live object differs from what was declared of it.

What is declared is compared by value. What is not is drift if others have set it: the API server
keeps in `metadata.managedFields` who did. A default belongs to nobody, or to who made the object.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from ops.cluster import UnreadableError

# What others set in objects that are declared here: kind, field, and who does it and why.
BY_THEMSELVES = (
    (".*", r"status\b.*", "the kind's controller: what it sees"),
    ("Deployment", r'metadata\.annotations\["deployment\.kubernetes.*', "its controller: revision"),
    (".*", r'.*annotations\["kubectl\.kubernetes\.io/restartedAt"\]', "a restart by the runbook"),
    ("PersistentVolume", r"spec\.claimRef\.(uid|resourceVersion)", "the binder: which claim"),
    ("PersistentVolumeClaim", r'metadata\.annotations\["pv\..*', "the binder: that it is bound"),
    ("Service", r'metadata\.annotations\["metallb\.io/ip-allocated.*', "MetalLB: from which pool"),
    ("Secret", r'data\["(ca|tls)\.(crt|key)"\]', "MetalLB: a certificate for its webhooks"),
    ("Custom.*|Validating.*", r".*\.clientConfig\.caBundle", "MetalLB: the same"),
)
LEFT_OUT = ("hostIPC", "hostNetwork", "hostPID", "paused", "publishNotReadyAddresses", "readOnly")
QUANTITIES = ("cpu", "memory", "storage", "ephemeral-storage", "sizeLimit", "divisor")
# Who applies what is declared: Pulumi's Kubernetes provider, Helm in it, and Helm itself.
APPLIERS = re.compile(r"pulumi-.*|helm", re.IGNORECASE)
# Where a password may be: what differs is printed, and a workflow makes an issue of it.
PRIVATE = re.compile(r"(^|\.)(annotations|args|command|data|env|stringData|values)\b")

# Others than appliers: name, place, and part of `fieldsV1`; an empty part is all that is below.
Owners = list[tuple[str, int, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One object that is not as declared, or one run that was cut off."""

    layer: str  # whose run it was, or who declared the object, as in `release NAMESPACE/NAME`
    kind: str  # as kubectl takes it, such as `deployment.apps`
    where: str  # namespace and name, or the name alone
    change: str  # `changed` or `deleted`; of a run, what it was
    fields: tuple[str, ...] = ()  # what differs, with values where none can be a secret
    added: tuple[str, ...] = ()  # JSON pointers of what nobody declared
    by: tuple[int, ...] = ()  # which of its `managedFields` have that
    version: str = ""  # its `resourceVersion`, for which alone these places hold


def compare(layer: str, stated: Mapping[str, Any], live: Mapping[str, Any] | None) -> list[Finding]:
    """Give the finding about an object, if it is not as declared; raises UnreadableError."""
    kind, metadata = stated["kind"], stated["metadata"]
    name = f"{kind}.{stated['apiVersion'].rpartition('/')[0]}".rstrip(".").lower()
    about = (layer, name, f"{metadata.get('namespace', '')}/{metadata['name']}".lstrip("/"))
    # One that waits for its finalizers is still there.
    if not live or "deletionTimestamp" in live["metadata"]:
        return [Finding(*about, "deleted")]
    if not (managers := live["metadata"].get("managedFields")):
        raise UnreadableError(f"{name} {about[2]}: its metadata.managedFields are gone")
    owners: Owners = [
        (f" ({one['manager']}, {one.get('time') or one.get('subresource')})", n, one["fieldsV1"])
        for n, one in enumerate(managers)
        if not APPLIERS.fullmatch(one["manager"])
    ]
    found = [
        one
        for one in _compared("", "", stated, live, owners)
        if not any(re.fullmatch(k, kind) and re.fullmatch(p, one[0]) for k, p, _ in BY_THEMSELVES)
    ]
    fields = tuple(_text(kind == "Secret", *one) for one in found)
    added = [one for one in found if one[2] is None]
    by = sorted({n for one in added for _, n, _ in one[4]})
    pointers, version = tuple(one[1] for one in added), live["metadata"].get("resourceVersion", "")
    return [Finding(*about, "changed", fields, pointers, tuple(by), version)] * bool(found)


def _compared(
    path: str, pointer: str, stated: Any, live: Any, owners: Owners
) -> Iterator[tuple[str, str, Any, Any, Owners]]:
    """Give the same five of each difference: stated is None if nobody declared it."""
    if isinstance(stated, Mapping) or (isinstance(live, Mapping) and not stated):
        before, after = (side if isinstance(side, Mapping) else {} for side in (stated, live))
        for key in {**before, **after}:
            # Labels and annotations have dots in their names.
            at = f'{path}["{key}"]' if "." in key else f"{path}.{key}".lstrip(".")
            to = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            below = _below(owners, f"f:{key}")
            yield from _compared(at, to, before.get(key), after.get(key), below)
    elif isinstance(stated, list) or (isinstance(live, list) and not stated):
        for name, n, one, other in _pairs(stated or [], live if isinstance(live, list) else []):
            at, to, below = f"{path}[{name}]", f"{pointer}/{n}", _below(owners, "", other)
            if one is not None and other is not None:
                yield from _compared(at, to, one, other, below)
            elif stated or below:
                yield at, to, one, other, below
    elif stated in (None, ""):
        if owners and live:
            yield path, pointer, stated, live, owners
    elif not _same(path.rpartition(".")[2], stated, live):
        yield path, pointer, stated, live, owners


def _pairs(stated: list[Any], live: list[Any]) -> Iterator[tuple[object, int, Any, Any]]:
    """Pair elements by their names if all have one of their own, else in order; None is missing."""
    before, after = ({x.get("name"): x for x in y if isinstance(x, dict)} for y in (stated, live))
    if None not in before | after and len(before) + len(after) == len(stated) + len(live):
        for n, (name, one) in enumerate(after.items()):
            yield name, n, before.pop(name, None), one
        yield from ((name, 0, one, None) for name, one in before.items())
        return
    rest, surplus = list(stated), len(live) - len(stated)
    for n, one in enumerate(live):
        added = surplus > 0 and (not rest or any(_compared("", "", rest[0], one, [])))
        surplus -= added
        yield n, n, None if added else rest.pop(0), one
    yield from ((n, n, one, None) for n, one in enumerate(rest, len(live)))


def _below(owners: Owners, key: str, element: Any = None) -> Owners:
    """The owners of a key, or of a list's element (`k:{"name":"a"}`, `v:"a"`), or of all of it."""

    def fits(name: str) -> bool:
        kind, _, text = name.partition(":")
        if kind == "k" and isinstance(element, Mapping):
            return bool(json.loads(text).items() <= element.items())
        return name == key or (kind == "v" and json.loads(text) == element)

    parts = [(who, n, tree or {key: {}}) for who, n, tree in owners]
    return [(who, n, tree[name]) for who, n, tree in parts for name in tree if fits(name)]


def _same(field: str, stated: Any, live: Any) -> bool:
    if live is None:
        # A zero means nothing, and a false neither where the type has `omitempty` (API 0.36.3).
        return bool(stated == 0) and (stated is not False or field in LEFT_OUT)
    if isinstance(stated, bool) or isinstance(live, (bool, Mapping, list)):
        return stated is live
    with suppress(ValueError):  # as text, for of 0.05 it would take every binary digit
        if field in QUANTITIES and parse_quantity(str(stated)) == parse_quantity(str(live)):  # type: ignore[no-untyped-call]
            return True
    return str(stated) == str(live)


def _text(secret: bool, path: str, _: str, stated: Any, live: Any, owners: Owners) -> str:
    values = (
        "not there" if one is None else "there" if isinstance(one, (Mapping, list)) else str(one)
        for one in (stated, live)
    )
    shown = "" if secret or PRIVATE.search(path) else f": {', is '.join(x[:60] for x in values)}"
    return path + shown + "".join(who for who, *_ in owners)
