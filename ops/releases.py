"""Helm's releases, stored as a Secret for each revision in the release's namespace.

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
    "failed": "an up failed",
    "uninstalling": "a destroy was cut off",
}
"""Cause of each status that an interrupted run leaves on the newest revision."""


@dataclass(frozen=True, slots=True, order=True)
class Revision:
    """One install, upgrade or rollback of a release; sorted by release and number."""

    namespace: str
    name: str
    number: int
    """From 1; the label `version` of its Secret."""
    status: str
    """Such as `deployed`, `superseded`, or one of `UNFINISHED`."""
    changed: int
    """Unix time of Helm's last write, by the clock of the machine that ran Helm."""

    @property
    def secret(self) -> str:
        """Name of its Secret."""
        return f"sh.helm.release.v1.{self.name}.v{self.number}"

    @property
    def path(self) -> str:
        """API path of its Secret."""
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.secret}"


def revisions(cluster: Cluster, namespace: str = "", name: str = "") -> list[Revision]:
    """Return the revisions of the release `name` in `namespace`, or of all if empty.

    Reads metadata only. Raises UnreadableError.
    """
    path = f"/api/v1/namespaces/{namespace}/secrets" if namespace else "/api/v1/secrets"
    selector = f"owner=helm,name={name}" if name else "owner=helm"
    secrets = cluster.ask(path, METADATA, labelSelector=selector) or {}
    return sorted(_revision(item["metadata"]) for item in secrets.get("items") or [])


def objects(cluster: Cluster, revision: Revision) -> list[dict[str, Any]]:
    """Return the objects of a revision's manifest, each with its namespace.

    Raises UnreadableError.
    """
    try:
        encoded = cluster.read(revision.path)["data"]["release"]
        release = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(encoded))))
        documents = yaml.load_all(release["manifest"], yaml.CSafeLoader)
        objects = [document for document in documents if document]
    except (ValueError, KeyError, OSError, EOFError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UnreadableError(f"{revision.path}: not a Helm release: {reason}") from error
    for obj in objects:
        kind = cluster.kinds.get((obj["apiVersion"], obj["kind"]))
        namespace = obj["metadata"].pop("namespace", revision.namespace)
        # Some charts set a namespace on cluster-scoped objects.
        if kind and kind.namespaced:
            obj["metadata"]["namespace"] = namespace
    return objects


def unfinished(revisions: Iterable[Revision]) -> Revision | None:
    """Return the newest revision of a release if Helm did not finish it, or None."""
    newest = max(revisions, key=lambda revision: revision.number, default=None)
    return newest if newest and newest.status in UNFINISHED else None


def reason(revision: Revision) -> str:
    """Return a line about an unfinished revision."""
    release = f"release {revision.namespace}/{revision.name}"
    status = revision.status
    return f"{release}: revision {revision.number} is {status}: {UNFINISHED[status]}"


def _revision(metadata: Mapping[str, Any]) -> Revision:
    try:
        labels = metadata["labels"]
        number, changed = labels["version"], labels.get("modifiedAt") or labels["createdAt"]
        return Revision(
            str(metadata["namespace"]), labels["name"], int(number), labels["status"], int(changed)
        )
    except (KeyError, ValueError) as error:
        name = f"{metadata['namespace']}/{metadata['name']}"
        raise UnreadableError(f"Secret {name}: not a Helm release: {error}") from error
