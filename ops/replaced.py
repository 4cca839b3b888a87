"""What changed between two objects, and what of it needs a new object."""

# A long list of words is one string.
# ruff: noqa: SIM905

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

SOURCES = """
awsElasticBlockStore azureDisk azureFile cephfs cinder csi fc flexVolume flocker gcePersistentDisk
glusterfs hostPath iscsi local nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos
vsphereVolume
""".split()
# Source: provider/pkg/provider/diff.go in pulumi-kubernetes. What the API server
# refuses on top of it (reclaimPolicy, volumeBindingMode, nodeAffinity) is called replaced too.
REPLACES: dict[str, list[str]] = {
    "/ConfigMap": ["data", "binaryData"],
    "/PersistentVolume": [*(f"spec.{key}" for key in SOURCES), "spec.nodeAffinity"],
    "/PersistentVolumeClaim": [
        f"spec.{key}" for key in ("accessModes", "selector", "storageClassName", "volumeName")
    ],
    "/Secret": ["data", "stringData", "type"],
    "/Service": ["spec.clusterIP"],
    "apps/DaemonSet": ["spec.selector"],
    "apps/Deployment": ["spec.selector"],
    "apps/StatefulSet": [
        f"spec.{key}"
        for key in (
            "podManagementPolicy",
            "revisionHistoryLimit",
            "selector",
            "serviceName",
            "volumeClaimTemplates",
        )
    ],
    "batch/Job": [f"spec.{key}" for key in ("completions", "parallelism", "selector", "template")],
    "rbac.authorization.k8s.io/ClusterRoleBinding": ["roleRef"],
    "rbac.authorization.k8s.io/RoleBinding": ["roleRef"],
    "storage.k8s.io/StorageClass": [
        "parameters",
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ],
}
ALWAYS = ["apiVersion", "kind", "metadata.name", "metadata.namespace"]
# Maps whose values are quantities, so that `1000m` is `1`, as the API server stores it.
QUANTITIES = frozenset({"limits", "requests", "capacity", "hard", "default", "defaultRequest"})
# Fields whose zero the API server drops: no pointers in the Go types of Kubernetes 1.36.
DROPPED_ZEROS = frozenset(
    """value readOnly hostNetwork hostPID hostIPC tty stdin stdinOnce paused subPath
    publishNotReadyAddresses""".split()
)
# Means the same as leaving the field out; `{}` does not, see a NetworkPolicy's selectors.
NOTHING: tuple[Any, ...] = (None, [])
QUANTITY = re.compile(r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)([numkKMGTPE]?)(i?)")
POWERS = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
# `a.b`, `a[0]`, `a["b"]`, the property paths of the engine.
PATH_PART = re.compile(r'\["((?:[^"\\]|\\.)*)"\]|\[(\d+|\*)\]|([^.\[\]]+)')


class Change(NamedTuple):
    """One property that differs between two objects."""

    path: tuple[str | int, ...]
    kind: str
    """ADD, DELETE or UPDATE."""
    replaces: bool = False
    """Whether only a new object can have it."""

    @property
    def text(self) -> str:
        """Write the path as the engine does, e.g. `spec.ports[0].port`."""
        parts = (
            f"[{part}]" if isinstance(part, int) else f".{part}" if _simple(part) else f'["{part}"]'
            for part in self.path
        )
        return "".join(parts).removeprefix(".")


def _simple(key: str) -> bool:
    return key.isidentifier()


def _dropped(key: str, value: Any) -> bool:
    return key in DROPPED_ZEROS and value in ("", False)


def changes(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> Iterator[Change]:
    """Find what has to happen to `old` for it to become `new`, one property each."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in new:
                if old[key] not in NOTHING and not _dropped(key, old[key]):
                    yield Change((*path, key), "DELETE")
            elif key not in old:
                if new[key] not in NOTHING:
                    yield Change((*path, key), "ADD")
            else:
                yield from changes(old[key], new[key], (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from changes(before, after, (*path, index))
        for index in range(len(new), len(old)):
            yield Change((*path, index), "DELETE")
        for index in range(len(old), len(new)):
            yield Change((*path, index), "ADD")
    elif old != new and not _same_quantity(old, new, path):
        yield Change(path, "UPDATE")


def _same_quantity(old: Any, new: Any, path: tuple[str | int, ...]) -> bool:
    if len(path) < 2 or (path[-2] not in QUANTITIES and path[-1] != "sizeLimit"):
        return False
    try:
        return quantity(old) == quantity(new)
    except (ArithmeticError, ValueError):
        return False


def quantity(value: Any) -> Decimal:
    """Compute the number a Kubernetes quantity stands for, e.g. 0.5 for `500m`.

    Raises ValueError if it is none.
    """
    if not (parts := QUANTITY.fullmatch(str(value))):
        message = f"not a quantity: {value}"
        raise ValueError(message)
    number, power, binary = parts.groups()
    return Decimal(number) * Decimal(1024 if binary else 1000) ** POWERS[power]


def immutable(obj: dict[str, Any], old: dict[str, Any], mutable_kinds: Iterable[str]) -> list[str]:
    """List what of `obj` only a new object can change; `old` are its present properties."""
    group = obj["apiVersion"].rpartition("/")[0]
    paths = REPLACES.get(f"{group}/{obj['kind']}", [])
    if obj["kind"] in mutable_kinds and not old.get("immutable"):
        paths = [path for path in paths if path == "type"]
    return ALWAYS + paths


def marked(found: Iterable[Change], paths: Iterable[str]) -> list[Change]:
    """Set `replaces` in `found` where a change lies at or under one of `paths`."""
    wanted = [tuple(path.split(".")) for path in paths]
    return [
        change._replace(
            replaces=change.replaces or any(_covers(path, change.path) for path in wanted)
        )
        for change in found
    ]


def _covers(path: tuple[str, ...], changed: tuple[str | int, ...]) -> bool:
    """Tell whether one of the two lies inside the other; a whole `spec` added covers all of it."""
    return all(a == b for a, b in zip(path, changed, strict=False))


def ignored(change: Change, patterns: Iterable[str]) -> bool:
    """Tell whether an `ignoreChanges` pattern of the engine covers `change`; `*` is any part."""
    parts = [str(part) for part in change.path]
    for pattern in patterns:
        keys = ["".join(key) for key in PATH_PART.findall(pattern)]
        if len(keys) <= len(parts) and all(
            key in ("*", part) for key, part in zip(keys, parts, strict=False)
        ):
            return True
    return False
