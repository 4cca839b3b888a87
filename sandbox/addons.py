"""Objects that a cluster has from the start, applied by kubectl, and the waits for its pods."""

import json
import subprocess
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path

MANIFESTS = Path(__file__).parent / "manifests"
APPLY = (
    "apply",
    "--server-side",
    "--force-conflicts",
    "--field-manager=homelab-sandbox",
    # To validate it, kubectl asks for schemas, for which the API server takes 100 MB.
    "--validate=false",
)


def run(kubectl: Sequence[str], *arguments: str, content: str = "") -> str:
    """Return the output of kubectl, which reads `content`; raises ConnectionError if it fails."""
    command = [*kubectl, *arguments]
    result = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConnectionError(f"kubectl {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


def apply(kubectl: Sequence[str], files: Sequence[Path], record: Path | None = None) -> None:
    """Apply all objects in `files` on the server's side, unless `record` says that it was done."""
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    # Applying the same again takes seconds, and lets etcd grow.
    if record and record.exists() and record.read_text() == digest:
        return
    run(kubectl, *APPLY, *(f"--filename={file}" for file in files))
    if record:
        record.write_text(digest)


def require_nodes(kubectl: Sequence[str], since: float) -> None:
    """Raise ConnectionError unless there are nodes, and all have reported that they are ready.

    They must have reported it after `since`, in seconds since 1970.
    """
    nodes = json.loads(run(kubectl, "get", "nodes", "--output=json"))["items"]
    reports = [
        condition["status"] == "True" and _seconds(condition["lastHeartbeatTime"]) >= since
        for node in nodes
        for condition in node["status"].get("conditions") or []
        if condition["type"] == "Ready"
    ]
    if not nodes or reports != [True] * len(nodes):
        raise ConnectionError(f"got {sum(reports)} nodes that are ready, want {len(nodes) or 1}")


def require_running(kubectl: Sequence[str], namespace: str, count: int, since: float) -> None:
    """Raise ConnectionError unless `count` pods run whose containers are ready.

    They must have started after `since`, in seconds since 1970.
    """
    listed = run(kubectl, "get", "pods", f"--namespace={namespace}", "--output=json")
    pods = json.loads(listed)["items"]
    if len(pods) < count:
        raise ConnectionError(f"{namespace}: got {len(pods)} pods, want {count}")
    for pod in pods:
        for container in pod["status"].get("containerStatuses") or [{"ready": False}]:
            running = container["ready"] and container["state"].get("running")
            if not running or _seconds(running["startedAt"]) < since:
                raise ConnectionError(f"{pod['metadata']['name']} is not ready")


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
