"""What was found to be different, and how that is told."""

import re
from dataclasses import dataclass
from typing import Any, Literal

Layer = Literal["declared", "release"]

# Where a password may be: what is found is printed, and a workflow makes an issue of it.
PRIVATE = re.compile(r"(^|\.)(annotations|args|command|data|env|stringData|values)\b")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One object that is not what it should be."""

    layer: Layer
    kind: str
    """With its group, as kubectl takes it, such as `deployment.apps`."""
    namespace: str
    """Empty for an object that is in none."""
    name: str
    change: Literal["changed", "deleted"]
    fields: tuple[str, ...] = ()
    """What is different in it."""

    @property
    def where(self) -> str:
        """Namespace and name, or the name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def kubectl_kind(group: str, kind: str) -> str:
    """Write a kind as kubectl takes it, whatever else has the same name."""
    return f"{kind.lower()}.{group}" if group else kind.lower()


def difference(kind: str, path: str, stated: Any, live: Any) -> str:
    """Tell one field's difference, without values where one could be a secret."""
    if kind in ("Secret", "Release") or PRIVATE.search(path):
        return path
    return f"{path}: {_short(stated)}, is {_short(live)}"


def _short(value: Any) -> str:
    if value is None:
        return "not there"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
