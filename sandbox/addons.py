"""What is on the cluster from the start: the node's size, DNS, MetalLB, the operator's kinds."""

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from urllib3.exceptions import HTTPError

from sandbox.processes import Processes

MANIFESTS = Path(__file__).parent / "manifests"
PODS = {"kube-system": 1, "metallb-system": 2}
"""How many pods the addons have, by namespace."""
PATIENCE = 300.0
"""Seconds for the pods: all at once they take 40 on an idle machine."""


class Yaml(yaml.CSafeLoader):
    """Reads `=` as text, as YAML 1.2 does: it is a value in the operator's definitions."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: rules
        for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items()
        if first != "="
    }


def apply(client: DynamicClient, files: Sequence[Path], kept: Path) -> None:
    """Apply all objects of files on the server's side, unless `kept` says that it was done."""
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    # Applying the same again makes the API server work, and grow.
    if kept.exists() and kept.read_text() == digest:
        return
    for file in files:
        for item in filter(None, yaml.load_all(file.read_text(), Yaml)):
            resource = client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
            resource.server_side_apply(
                body=item,
                name=item["metadata"]["name"],
                namespace=item["metadata"].get("namespace"),
                field_manager="homelab-sandbox",
                force_conflicts=True,
            )
    kept.write_text(digest)


def wait_for_node(client: DynamicClient, processes: Processes, since: float) -> None:
    """Wait until the node says, after a time, that it is ready; raises SandboxError."""

    def ready() -> None:
        (node,) = _list(client, "Node", None, 1)
        for condition in node["status"].get("conditions") or []:
            is_ready = condition["type"] == "Ready" and condition["status"] == "True"
            if is_ready and _seconds(condition["lastHeartbeatTime"]) >= since:
                return
        raise ConnectionError(f"{node['metadata']['name']} is not ready")

    processes.retry("kubelet", ready)


def wait_for_pods(client: DynamicClient, processes: Processes, since: float) -> None:
    """Wait until the addons' pods are ready, started after a time; raises SandboxError."""

    def ready(namespace: str, number: int) -> None:
        for pod in _list(client, "Pod", namespace, number):
            for container in pod["status"].get("containerStatuses") or [{"ready": False}]:
                running = container["ready"] and container["state"].get("running")
                if not running or _seconds(running["startedAt"]) < since:
                    raise ConnectionError(f"{pod['metadata']['name']} is not ready")

    deadline = time.monotonic() + PATIENCE
    for namespace, number in PODS.items():
        processes.retry("kubelet", partial(ready, namespace, number), deadline - time.monotonic())


def _list(
    client: DynamicClient, kind: str, namespace: str | None, number: int
) -> list[dict[str, Any]]:
    """Give all objects of a kind; raise ConnectionError if it cannot, or there are fewer."""
    try:
        resource = client.resources.get(api_version="v1", kind=kind)
        items: list[dict[str, Any]] = resource.get(namespace=namespace).to_dict()["items"]
    except (ApiException, HTTPError) as error:
        raise ConnectionError(str(error).partition("\n")[0]) from error
    if len(items) < number:
        raise ConnectionError(f"{kind}: {len(items)} of {number}")
    return items


def _seconds(time_of_day: str) -> float:
    return datetime.fromisoformat(time_of_day).timestamp()
