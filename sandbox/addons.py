"""Objects that a cluster has from the start, and the waits for its nodes, pods and definitions."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from kubernetes.dynamic import DynamicClient

MANIFESTS = Path(__file__).parent / "manifests"


class Yaml(yaml.CSafeLoader):
    """Reads `=` as a string, as YAML 1.2 does: it is a value in the operator's definitions."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: rules
        for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items()
        if first != "="
    }


def apply(client: DynamicClient, files: Sequence[Path], record: Path | None = None) -> None:
    """Apply all objects in `files` on the server's side, unless `record` says that it was done."""
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    # Applying the same again takes seconds, and lets etcd grow.
    if record and record.exists() and record.read_text() == digest:
        return
    for file in files:
        for item in filter(None, yaml.load_all(file.read_text(), Yaml)):
            apply_object(client, item)
    if record:
        record.write_text(digest)


def apply_object(client: DynamicClient, item: dict[str, Any], subresource: str = "") -> None:
    """Apply one object, or a subresource of it, on the server's side."""
    resource: Any = client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
    (getattr(resource, subresource) if subresource else resource).server_side_apply(
        body=item,
        name=item["metadata"]["name"],
        namespace=item["metadata"].get("namespace"),
        field_manager="homelab-sandbox",
        force_conflicts=True,
    )


def objects(
    client: DynamicClient, kind: str, namespace: str | None = None, version: str = "v1"
) -> list[dict[str, Any]]:
    """Return all objects of a kind."""
    resource = client.resources.get(api_version=version, kind=kind)
    items: list[dict[str, Any]] = resource.get(namespace=namespace).to_dict()["items"]
    return items


def require_condition(items: Sequence[dict[str, Any]], condition: str, since: float = 0) -> None:
    """Raise ConnectionError unless there are objects, and `condition` is true of all.

    A node must have reported it after `since`, in seconds since 1970.
    """
    if not items:
        raise ConnectionError(f"got no objects, want some that are {condition}")
    for item in items:
        conditions = item.get("status", {}).get("conditions") or []
        if not any(
            (entry["type"], entry["status"]) == (condition, "True")
            and (not since or _seconds(entry["lastHeartbeatTime"]) >= since)
            for entry in conditions
        ):
            raise ConnectionError(f"{item['metadata']['name']} is not {condition}")


def require_running(client: DynamicClient, namespace: str, count: int, since: float) -> None:
    """Raise ConnectionError unless `count` pods run whose containers are ready.

    They must have started after `since`, in seconds since 1970.
    """
    pods = objects(client, "Pod", namespace)
    if len(pods) < count:
        raise ConnectionError(f"{namespace}: got {len(pods)} pods, want {count}")
    for pod in pods:
        for container in pod["status"].get("containerStatuses") or [{"ready": False}]:
            running = container["ready"] and container["state"].get("running")
            if not running or _seconds(running["startedAt"]) < since:
                raise ConnectionError(f"{pod['metadata']['name']} is not ready")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
