"""What Helm made for a release, against what is there now.

Pulumi's refresh asks Helm for the release, and never looks at its objects.
"""

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import yaml
from kubernetes.utils.quantity import parse_quantity

from ops.cluster import Cluster, UnreadableError
from ops.findings import Finding, difference, kubectl_kind

Manifest = list[dict[str, Any]]
"""The objects that a release was made of."""

INT = "tag:yaml.org,2002:int"
# What a manifest may state and another writes: the kind ("" for all), the field, and who and why.
ANOTHERS = (
    ("", r"status\b.*", "its controller, which some manifests leave an empty one for"),
    ("ValidatingWebhookConfiguration", r".*\.caBundle", "MetalLB, the certificate it has made"),
    ("CustomResourceDefinition", r".*\.caBundle", "MetalLB, the same for conversions"),
)
# Fields that the API's own types leave out when they are false (`bool` with `omitempty` in
# k8s.io/api 0.36.3: core, apps, and the definitions' schemas).
LEFT_OUT_IF_FALSE = frozenset(
    (
        *("hostIPC", "hostNetwork", "hostPID", "paused", "publishNotReadyAddresses", "readOnly"),
        *("preserveUnknownFields", "stdin", "stdinOnce", "tty", "unschedulable", "deprecated"),
        *("exclusiveMaximum", "exclusiveMinimum", "nullable", "uniqueItems"),
    )
)
# Dates, `=` and 12:30 are text in Kubernetes' YAML, but not in Python's.
NOT_IN_KUBERNETES = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", INT)
QUANTITIES = frozenset(("cpu", "memory", "storage", "ephemeral-storage", "sizeLimit", "divisor"))


class _Yaml(yaml.CSafeLoader):
    """YAML as Kubernetes reads it."""


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in NOT_IN_KUBERNETES]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(INT, re.compile(r"[-+]?(0x[\da-fA-F]+|\d+)$"), [*"+-0123456789"])


def manifest(cluster: Cluster, namespace: str, name: str) -> Manifest | None:
    """Read what Helm says it made; None if Helm knows no such release.

    Raises UnreadableError.
    """
    secrets = cluster.list(
        cluster.kinds["v1", "Secret"], namespace, f"owner=helm,name={name},status=deployed"
    )
    if not secrets:
        return None
    newest = max(secrets, key=lambda secret: int(secret["metadata"]["labels"]["version"]))
    try:
        packed = base64.b64decode(base64.b64decode(newest["data"]["release"]))
        text = json.loads(gzip.decompress(packed))["manifest"]
        made = documents(text)
    except (ValueError, KeyError, OSError, yaml.YAMLError) as error:
        raise UnreadableError(f"release {namespace}/{name}: its Secret: {error}") from error
    return [_placed(cluster, one, namespace) for one in made]


def documents(text: str) -> Manifest:
    """Read a manifest as Kubernetes does; raises YAMLError."""
    return [one for one in yaml.load_all(text, _Yaml) if one]


def findings(cluster: Cluster, made: Manifest) -> list[Finding]:
    """Find the objects of a release that are gone or different; raises UnreadableError."""
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda stated: _finding(stated, cluster.get(stated)), made)
        return [one for one in found if one]


def differences(stated: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Tell each field of `stated` that `live` does not have so; what it leaves open may be."""
    kind = stated["kind"]
    if kind == "Secret" and "stringData" in stated:
        plain = stated["stringData"].items()
        coded = {key: base64.b64encode(text.encode()).decode() for key, text in plain}
        stated = {**stated, "data": {**(stated.get("data") or {}), **coded}, "stringData": None}
    own = {key: part for key, part in stated.items() if key not in ("apiVersion", "kind")}
    return [
        difference(kind, path, before, after)
        for path, before, after in _compared(own, live, "")
        if not any(of in ("", kind) and re.fullmatch(field, path) for of, field, _ in ANOTHERS)
    ]


def _finding(stated: Mapping[str, Any], live: Mapping[str, Any] | None) -> Finding | None:
    different = tuple(differences(stated, live)) if live else ()
    if live and not different:
        return None
    return Finding(
        layer="release",
        kind=kubectl_kind(_group(stated), stated["kind"]),
        namespace=stated["metadata"].get("namespace", ""),
        name=stated["metadata"]["name"],
        change="changed" if live else "deleted",
        fields=different,
    )


def _compared(stated: Any, live: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Give path, stated and live value of each difference."""
    if isinstance(stated, Mapping):
        for key, part in stated.items():
            yield from _compared(
                part, live.get(key) if isinstance(live, Mapping) else None, _below(path, key)
            )
    elif isinstance(stated, list) and stated:
        yield from _compared_lists(stated, live if isinstance(live, list) else [], path)
    elif not _same(stated, live, path.rpartition(".")[2]):
        yield path, stated, live


def _compared_lists(
    stated: list[Any], live: list[Any], path: str
) -> Iterator[tuple[str, Any, Any]]:
    """Compare lists by their elements' names, where all have one of their own; else in order."""
    before, after = _named(stated), _named(live)
    if before is None or after is None:
        before, after = ({str(i): one for i, one in enumerate(side)} for side in (stated, live))
    for name, part in before.items():
        if name not in after:
            yield f"{path}[{name}]", "there", None
        else:
            yield from _compared(part, after[name], f"{path}[{name}]")
    for name in sorted(after.keys() - before.keys()):
        yield f"{path}[{name}]", None, "there"


def _named(elements: list[Any]) -> dict[str, Any] | None:
    named = {one["name"]: one for one in elements if isinstance(one, Mapping) and one.get("name")}
    return named if len(named) == len(elements) else None


def _same(stated: Any, live: Any, field: str) -> bool:
    """Say whether a single value is as stated; an empty one states nothing."""
    if stated is None or stated in ("", []) or stated == live:
        return True
    if live is None:
        # A zero is left out where it means nothing, a false in some fields only.
        return field in LEFT_OUT_IF_FALSE if stated is False else bool(stated == 0)
    if isinstance(stated, bool) or isinstance(live, (bool, Mapping, list)):
        return False
    return str(stated) == str(live) or (field in QUANTITIES and _amount(stated) == _amount(live))


def _amount(quantity: Any) -> Decimal | str:
    try:
        # As text: of the number 0.05 it would take every binary digit.
        amount: Decimal = parse_quantity(str(quantity))  # type: ignore[no-untyped-call]
    except ValueError:
        return str(quantity)
    return amount


def _placed(cluster: Cluster, obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The object with the namespace that it is in, which a manifest may leave out or make up."""
    kind = cluster.kinds.get((obj["apiVersion"], obj["kind"]))
    metadata = {key: part for key, part in obj["metadata"].items() if key != "namespace"}
    if not kind or kind.namespaced:
        metadata["namespace"] = obj["metadata"].get("namespace") or namespace
    return {**obj, "metadata": metadata}


def _group(obj: Mapping[str, Any]) -> str:
    group, slash, _ = str(obj["apiVersion"]).partition("/")
    return group if slash else ""


def _below(path: str, key: str) -> str:
    # Labels and annotations have dots in their names.
    return f'{path}["{key}"]' if "." in key else f"{path}.{key}" if path else key
