"""Comparison of a live object with its declaration.

Declared fields are compared by value. An undeclared field is drift if another field manager owns it
by `metadata.managedFields`; a default has no owner, or the one that created the object.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from ops.cluster import UnreadableError

# Fields that controllers set in declared objects: kind, field, and its owner and meaning.
CONTROLLED = (
    (".*", r"status\b.*", "the kind's controller: the status"),
    ("Deployment", r'metadata\.annotations\["deployment\.kubernetes.*', "its controller: revision"),
    (".*", r'.*annotations\["kubectl\.kubernetes\.io/restartedAt"\]', "kubectl rollout restart"),
    ("PersistentVolume", r"spec\.claimRef\.(uid|resourceVersion)", "the binder: the claim"),
    ("PersistentVolumeClaim", r'metadata\.annotations\["pv\..*', "the binder: its progress"),
    ("Service", r'metadata\.annotations\["metallb\.io/ip-allocated.*', "MetalLB: the pool"),
    ("Secret", r'data\["(ca|tls)\.(crt|key)"\]', "MetalLB: a certificate for its webhooks"),
    ("Custom.*|Validating.*", r".*\.clientConfig\.caBundle", "MetalLB: the same"),
)
OMITEMPTY = ("hostIPC", "hostNetwork", "hostPID", "paused", "publishNotReadyAddresses", "readOnly")
QUANTITIES = ("cpu", "memory", "storage", "ephemeral-storage", "sizeLimit", "divisor")
# Field managers of declared fields: Pulumi's Kubernetes provider, Helm in it, and Helm itself.
APPLIERS = re.compile(r"pulumi-.*|helm", re.IGNORECASE)
# Fields that may have passwords, which must not be printed or copied to an issue.
PRIVATE = re.compile(r"(^|\.)(annotations|args|command|data|env|stringData|values)\b")

# Other field managers: description, index, and part of `fieldsV1`; an empty part owns everything.
Owners = list[tuple[str, int, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """An object that differs from its declaration, or an interrupted run."""

    layer: str  # what declared the object, such as `release NAMESPACE/NAME`, or what ran
    kind: str  # as for kubectl, such as `deployment.apps`
    where: str  # namespace and name, or the name alone
    change: str  # `changed` or `deleted`; of a run, its status
    fields: tuple[str, ...] = ()  # differences, with values unless they may be secret
    added: tuple[str, ...] = ()  # JSON pointers of undeclared fields
    by: tuple[int, ...] = ()  # indices of the `managedFields` that own them
    version: str = ""  # `resourceVersion` for which the pointers and indices are valid


def compare(
    layer: str, declared: Mapping[str, Any], live: Mapping[str, Any] | None
) -> list[Finding]:
    """Return a finding if an object differs from its declaration; raises UnreadableError."""
    kind, metadata = declared["kind"], declared["metadata"]
    name = f"{kind}.{declared['apiVersion'].rpartition('/')[0]}".rstrip(".").lower()
    title = (layer, name, f"{metadata.get('namespace', '')}/{metadata['name']}".lstrip("/"))
    # An object with finalizers still exists after its deletion.
    if not live or "deletionTimestamp" in live["metadata"]:
        return [Finding(*title, "deleted")]
    if not (managers := live["metadata"].get("managedFields")):
        raise UnreadableError(f"{name} {title[2]}: metadata.managedFields are missing")
    owners: Owners = [
        (f" ({entry['manager']}, {entry.get('time') or entry.get('subresource')})", n, fields)
        for n, entry in enumerate(managers)
        if not APPLIERS.fullmatch(entry["manager"])
        for fields in [entry["fieldsV1"]]
    ]
    differences = [
        item
        for item in _differences("", "", declared, live, owners)
        if not any(re.fullmatch(k, kind) and re.fullmatch(p, item[0]) for k, p, _ in CONTROLLED)
    ]
    texts = tuple(_describe(kind == "Secret", *item) for item in differences)
    added = [item for item in differences if item[2] is None]
    by = sorted({n for item in added for _, n, _ in item[4]})
    pointers = tuple(item[1] for item in added)
    version = live["metadata"].get("resourceVersion", "")
    return [Finding(*title, "changed", texts, pointers, tuple(by), version)] * bool(differences)


def _differences(
    path: str, pointer: str, declared: Any, live: Any, owners: Owners
) -> Iterator[tuple[str, str, Any, Any, Owners]]:
    """Yield path, JSON pointer, both values and owners; an undeclared value is None."""
    if isinstance(declared, Mapping) or (isinstance(live, Mapping) and not declared):
        before, after = (side if isinstance(side, Mapping) else {} for side in (declared, live))
        for key in {**before, **after}:
            # Names of labels and annotations have dots.
            inner_path = f'{path}["{key}"]' if "." in key else f"{path}.{key}".lstrip(".")
            inner_pointer = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            inner = _inner_owners(owners, f"f:{key}")
            values = before.get(key), after.get(key)
            yield from _differences(inner_path, inner_pointer, *values, inner)
    elif isinstance(declared, list) or (isinstance(live, list) and not declared):
        for name, n, old, new in _pairs(declared or [], live if isinstance(live, list) else []):
            inner_path, inner_pointer = f"{path}[{name}]", f"{pointer}/{n}"
            inner = _inner_owners(owners, "", new)
            if old is not None and new is not None:
                yield from _differences(inner_path, inner_pointer, old, new, inner)
            elif declared or inner:
                yield inner_path, inner_pointer, old, new, inner
    elif declared in (None, ""):
        if owners and live:
            yield path, pointer, declared, live, owners
    elif not _same(path.rpartition(".")[2], declared, live):
        yield path, pointer, declared, live, owners


def _pairs(declared: list[Any], live: list[Any]) -> Iterator[tuple[object, int, Any, Any]]:
    """Yield name, index and both elements, paired by unique names or in order; None if missing."""
    before, after = ({x.get("name"): x for x in y if isinstance(x, dict)} for y in (declared, live))
    if None not in before | after and len(before) + len(after) == len(declared) + len(live):
        for n, (name, element) in enumerate(after.items()):
            yield name, n, before.pop(name, None), element
        yield from ((name, 0, element, None) for name, element in before.items())
        return
    rest, surplus = list(declared), len(live) - len(declared)
    for n, element in enumerate(live):
        is_added = surplus > 0 and (not rest or any(_differences("", "", rest[0], element, [])))
        surplus -= is_added
        yield n, n, None if is_added else rest.pop(0), element
    yield from ((n, n, element, None) for n, element in enumerate(rest, len(live)))


def _inner_owners(owners: Owners, key: str, element: Any = None) -> Owners:
    """Return the owners of a key, or of a list's element (`k:{"name":"a"}`, `v:"a"`)."""

    def matches(name: str) -> bool:
        prefix, _, text = name.partition(":")
        if prefix == "k" and isinstance(element, Mapping):
            return bool(json.loads(text).items() <= element.items())
        return name == key or (prefix == "v" and json.loads(text) == element)

    parts = [(owner, n, tree or {key: {}}) for owner, n, tree in owners]
    return [(owner, n, tree[name]) for owner, n, tree in parts for name in tree if matches(name)]


def _same(field: str, declared: Any, live: Any) -> bool:
    if live is None:
        # A missing field is 0, and false if its type has `omitempty` (API 0.36.3).
        return bool(declared == 0) and (declared is not False or field in OMITEMPTY)
    if isinstance(declared, bool) or isinstance(live, (bool, Mapping, list)):
        return declared is live
    with suppress(ValueError):  # parsed from strings, because a float 0.05 is not exact
        if field in QUANTITIES and parse_quantity(str(declared)) == parse_quantity(str(live)):  # type: ignore[no-untyped-call]
            return True
    return str(declared) == str(live)


def _describe(secret: bool, path: str, _: str, declared: Any, live: Any, owners: Owners) -> str:
    if secret or PRIVATE.search(path):
        text = "value not shown"
    else:
        text = f"got {_value(live)}, want {_value(declared)}"
    return f"{path}: {text}" + "".join(owner for owner, *_ in owners)


def _value(value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        return "a list" if isinstance(value, list) else "an object"
    return "nothing" if value is None else str(value)[:60]
