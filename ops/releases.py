"""What Helm keeps of its releases: a Secret for each revision, in the release's namespace.

Names, labels, statuses and encoding: helm.sh/helm v3.18.6, pkg/storage/driver and pkg/release.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ops.cluster import METADATA, Cluster, UnreadableError

UNFINISHED = {
    "pending-install": "an up was cut off",
    "pending-upgrade": "an up was cut off",
    "pending-rollback": "a rollback was cut off",
    "failed": "an up did not get through",
    "uninstalling": "a destroy was cut off",
}
"""What happened, by the status that the newest revision then keeps for ever."""


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """One install, upgrade or rollback of a release; they sort by release, then by number."""

    namespace: str
    name: str
    number: int
    """From 1; Helm's label calls it `version`."""
    status: str
    """Such as `deployed`, `superseded`, or one of `UNFINISHED`."""
    changed: int
    """When Helm last wrote it, in seconds since 1970 by the clock of who ran Helm."""

    @property
    def secret(self) -> str:
        """Name of its Secret."""
        return f"sh.helm.release.v1.{self.name}.v{self.number}"


def revisions(cluster: Cluster, namespace: str = "", name: str = "") -> list[Revision]:
    """List what Helm keeps in `namespace`, of the release `name`; empty: of all.

    Only names and labels are read. Raises UnreadableError.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets" if namespace else "/api/v1/secrets"
    selector = f"owner=helm,name={name}" if name else "owner=helm"
    listed = cluster.ask(path, METADATA, labelSelector=selector) or {}
    return sorted(_revision(item["metadata"]) for item in listed.get("items") or [])


def manifest_text(cluster: Cluster, revision: Revision) -> str:
    """Read the YAML of the objects that a revision is made of; raises UnreadableError."""
    path = f"/api/v1/namespaces/{revision.namespace}/secrets/{revision.secret}"
    try:
        packed = cluster.ask(path)["data"]["release"]
        release = gzip.decompress(base64.b64decode(base64.b64decode(packed)))
        return str(json.loads(release)["manifest"])
    # TypeError: it is gone by now.
    except (ValueError, KeyError, OSError, EOFError, TypeError) as error:
        raise UnreadableError(f"{path}: not a release that Helm keeps: {error}") from error


def objects(cluster: Cluster, revision: Revision) -> list[dict[str, Any]]:
    """Read the objects that a revision is made of, each with its namespace.

    Raises UnreadableError.
    """
    try:
        made = [
            one for one in yaml.load_all(manifest_text(cluster, revision), yaml.CSafeLoader) if one
        ]
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise UnreadableError(f"Secret {revision.namespace}/{revision.secret}: {why}") from error
    for one in made:
        kind = cluster.kinds.get((one["apiVersion"], one["kind"]))
        namespace = one["metadata"].pop("namespace", revision.namespace)
        # Some charts give one to objects that are in none.
        if kind and kind.namespaced:
            one["metadata"]["namespace"] = namespace
    return made


def unfinished(kept: Iterable[Revision]) -> Revision | None:
    """Give the newest revision of one release if Helm did not finish it."""
    newest = max(kept, key=lambda revision: revision.number, default=None)
    return newest if newest and newest.status in UNFINISHED else None


def reason(revision: Revision) -> str:
    """Say what an unfinished revision is."""
    release = f"release {revision.namespace}/{revision.name}"
    status = revision.status
    return f"{release}: revision {revision.number} is {status}: {UNFINISHED[status]}"


def problem(revision: Revision, stack: str) -> str:
    """Say in one line what an unfinished revision is, and the command that mends it."""
    return f"{reason(revision)}; {recover(stack)}"


def recover(stack: str) -> str:
    """Give the command that takes up what an interrupted run has left."""
    return "make recover" if stack == "sandbox" else f"make recover STACK={stack}"


def _revision(metadata: Mapping[str, Any]) -> Revision:
    try:
        labels = metadata["labels"]
        number, changed = labels["version"], labels.get("modifiedAt") or labels["createdAt"]
        return Revision(
            str(metadata["namespace"]), labels["name"], int(number), labels["status"], int(changed)
        )
    except (KeyError, ValueError) as error:
        where = f"{metadata['namespace']}/{metadata['name']}"
        raise UnreadableError(f"Secret {where}: not a release that Helm keeps: {error}") from error
