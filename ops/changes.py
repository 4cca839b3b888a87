"""What differs between two rendered folders, resource by resource and property by property."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ops import replaced
from ops.masking import masked
from ops.replaced import Change

RELEASE, RANDOM = "kubernetes:helm.sh/v3:Release", "random:"
PROVIDER = "pulumi:providers:kubernetes"


@dataclass(frozen=True)
class Made:
    """One rendered resource; all it has of a missing one is nothing."""

    component: str
    key: str
    """Type and logical name, as `type::name`."""
    options: dict[str, Any]
    properties: dict[str, Any]

    @property
    def type(self) -> str:
        """The type token, such as `kubernetes:core/v1:Service`."""
        return self.key.partition("::")[0]

    @property
    def kind(self) -> str:
        """The last word of the type, such as `Service`."""
        return self.type.rpartition(":")[2]

    @property
    def spec(self) -> dict[str, Any]:
        """The object's `spec`, empty if it has none."""
        return self.properties.get("spec") or {}

    @property
    def name(self) -> str:
        """The object's name in its namespace, or the logical name of what is no object."""
        named = self.properties.get("metadata") or self.properties
        name = named.get("name", self.key.partition("::")[2])
        return f"{named['namespace']}/{name}" if "namespace" in named else name

    @property
    def title(self) -> str:
        """Kind and name, as Markdown code."""
        return code(f"{self.kind} {self.name}")

    def containers(self) -> Iterator[dict[str, Any]]:
        """Yield every container of the pod that it describes, if it does."""
        pod = (self.spec.get("template") or {}).get("spec") or {}
        yield from (*pod.get("initContainers", []), *pod.get("containers", []))


@dataclass(frozen=True)
class Changed:
    """A resource in both folders that is not the same in both."""

    old: Made
    new: Made
    mutable: tuple[str, ...]
    """Kinds that the provider may change in place although Kubernetes' tools would not."""

    @cached_property
    def changes(self) -> list[Change]:
        """The properties that differ, marked where only a new object can have them.

        What the engine is told to overlook is left out.
        """
        found = [
            change
            for change in replaced.changes(self.old.properties, self.new.properties)
            if not replaced.ignored(change, self.new.options.get("ignoreChanges", []))
        ]
        return replaced.marked(
            found, [*self._fixed(), *self.new.options.get("replaceOnChanges", [])]
        )

    def _fixed(self) -> list[str]:
        if self.new.properties.get("apiVersion"):
            return replaced.immutable(self.new.properties, self.old.properties, self.mutable)
        if self.new.type == RELEASE:
            return ["name", "namespace"]
        if self.new.type == PROVIDER:
            # Another cluster, for all it knows: everything would be made there anew.
            return ["clusterIdentifier"]
        return list(self.new.properties) if self.new.type.startswith(RANDOM) else []

    @property
    def replaced_by(self) -> list[str]:
        """The properties that force a new object, each once and no deeper than `spec.local`."""
        found = [change for change in self.changes if change.replaces]
        return list(dict.fromkeys(Change(change.path[:2], "").text for change in found))

    def touches(self, *path: str) -> bool:
        """Say whether something at or below `path` changed."""
        return any(change.path[: len(path)] == path for change in self.changes)


@dataclass(frozen=True)
class Difference:
    """Two rendered folders side by side."""

    base: dict[str, Made]
    head: dict[str, Made]

    @property
    def added(self) -> list[Made]:
        """What only the head has."""
        return [made for key, made in self.head.items() if key not in self.base]

    @property
    def removed(self) -> list[Made]:
        """What only the base has."""
        return [made for key, made in self.base.items() if key not in self.head]

    @cached_property
    def changed(self) -> list[Changed]:
        """What both have, and is not the same; also in what the engine overlooks."""
        flags = {"enableConfigMapMutable": "ConfigMap", "enableSecretMutable": "Secret"}
        mutable = {
            flags[key]
            for made in self.head.values()
            if made.type == PROVIDER
            for key, value in made.properties.items()
            if key in flags and str(value).lower() == "true"
        }
        return [
            Changed(self.base[key], made, tuple(mutable))
            for key, made in self.head.items()
            if key in self.base and self.base[key] != made
        ]


def load(folder: Path) -> dict[str, Made]:
    """Read a folder that `python -m ops render` wrote; raises ValueError if it is none."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ValueError(f"{folder}: must be a folder that python -m ops render wrote")
    found = {}
    for file in files:
        # Pure Python's loader takes seconds for the dashboards.
        entries = masked(yaml.load(file.read_text(), yaml.CSafeLoader))
        for key, entry in entries.items():
            made = Made(file.stem, key, entry.get("options", {}), entry["properties"])
            found[key] = made
    return found


def code(text: object) -> str:
    """Markdown code on one line, whatever `text` is."""
    return f"`{' '.join(str(text).replace('`', chr(39)).split())}`"
