"""A short Job on each node that looks at its data disk, its directories, and where backups go."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kubernetes.client import ApiClient, BatchV1Api, CoreV1Api

from config.settings import Settings
from ops.doctor_checks import Result, fail, ok, warn

NAMESPACE = "default"
"""It enforces no Pod Security level unless somebody has set one; a host path needs `privileged`."""
PROGRAM = Path(__file__).with_name("doctor_disk_look.py")
MOUNTED, BACKUPS = "/parent", "/backups"
PATIENCE = 6.0
"""Seconds that all Jobs together may take."""
# With more than one thing wrong somewhere, what is surest is told first.
WORST = ("fail", "warn", "ok")


def disks(api: ApiClient, settings: Settings) -> Result:
    """Look at the disk of every node in the stack file; the Jobs are deleted in the end."""
    batch: Any = BatchV1Api(api)
    with ExitStack() as jobs:
        started = {}
        for name in settings.nodes:
            made = batch.create_namespaced_job(NAMESPACE, job(settings, name))
            started[name] = made.metadata.name
            delete = partial(
                batch.delete_namespaced_job, propagation_policy="Background", grace_period_seconds=0
            )
            jobs.callback(delete, started[name], NAMESPACE)
        deadline = time.monotonic() + PATIENCE
        results = [_result(api, settings, *one, deadline) for one in started.items()]
    return min(results, key=lambda result: WORST.index(result.level))


def backups(settings: Settings) -> Result:
    """Warn where the chats are on one disk only."""
    if backup := settings.webui.backup:
        return ok(f"every {backup.hours} h to {backup.volume.path}")
    return warn("none: the chats are on one disk only", "set webui.backup in the stack file")


def job(settings: Settings, node: str) -> dict[str, Any]:
    """The Job for one node, with the image that Open WebUI runs on."""
    disk = settings.nodes[node].disk.path
    places = {MOUNTED: str(PurePosixPath(disk).parent)}
    backup = settings.webui.backup
    if backup and settings.node_of(settings.webui) == node:
        places[BACKUPS] = backup.volume.path
    told = ["/dev/termination-log", MOUNTED, BACKUPS if BACKUPS in places else "", disk]
    container = {
        "name": "look",
        "image": settings.webui.image,
        # Pulling gigabytes is for `up`.
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", PROGRAM.read_text()],
        "args": [*told, *directories(settings, node)],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"memory": "128Mi"},
        },
        "volumeMounts": [
            {"name": place[1:], "mountPath": place, "readOnly": True} for place in places
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "nodeSelector": {"kubernetes.io/hostname": node},
        # The owner of most of the directories.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": place[1:], "hostPath": {"path": path, "type": "Directory"}}
            for place, path in places.items()
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "homelab-doctor-"},
        "spec": {
            "backoffLimit": 0,
            # Should nobody be there any more to delete it.
            "activeDeadlineSeconds": 30,
            "ttlSecondsAfterFinished": 30,
            "template": {"spec": pod},
        },
    }


def directories(settings: Settings, node: str) -> list[str]:
    """The directories that the volumes on a node are in."""
    return [part.volume.path for part in settings.parts.values() if settings.node_of(part) == node]


def judge(settings: Settings, node: str, pod: Mapping[str, Any], events: Iterable[str]) -> Result:
    """Give the result by the Job's pod, as the API has it, and the messages of its events."""
    disk = settings.nodes[node].disk.path
    by_hand = f"on {node}: findmnt {disk}"
    for container in pod["status"].get("containerStatuses") or []:
        if ended := container["state"].get("terminated"):
            return _told(ended, node, disk, by_hand)
        if (container["state"].get("waiting") or {}).get("reason") == "ErrImageNeverPull":
            image = settings.webui.image
            return warn(f"could not be looked at: {node} has no {image} before `up`", by_hand)
    if missing := [text for text in events if "hostPath type check failed" in text]:
        return fail(f"{node}: {missing[-1]}", by_hand)
    why = next(reversed([*_conditions(pod), *events]), "its pod has not ended")
    return warn(f"could not be looked at on {node}: {why}", by_hand)


def _told(ended: Mapping[str, Any], node: str, disk: str, by_hand: str) -> Result:
    try:
        problems: list[str] = json.loads(ended.get("message") or "")
    except ValueError:
        return warn(f"could not be looked at on {node}: its pod ended without a word", by_hand)
    if problems:
        return fail(f"{node}: {'; '.join(problems)}", f"{by_hand}; then mount it, make what lacks")
    return ok(f"{disk} is mounted on {node} and has its directories")


def _result(api: ApiClient, settings: Settings, node: str, name: str, deadline: float) -> Result:
    core: Any = CoreV1Api(api)
    result = warn(f"could not be looked at on {node}: no pod was made")
    while time.monotonic() < deadline:
        # A namespace that refuses the pod says so in the Job's events.
        pods = core.list_namespaced_pod(
            NAMESPACE, label_selector=f"batch.kubernetes.io/job-name={name}"
        ).items
        told = pods[0].metadata.name if pods else name
        field = f"involvedObject.name={told}"
        events = [
            event.message
            for event in core.list_namespaced_event(NAMESPACE, field_selector=field).items
            if event.type == "Warning"
        ]
        if pods:
            pod = api.sanitize_for_serialization(pods[0])  # type: ignore[no-untyped-call]
            result = judge(settings, node, pod, events)
            if result.level != "warn" or "ErrImage" in str(pod["status"]):
                return result
            if pod["status"].get("phase") in ("Succeeded", "Failed"):
                return result
        elif events:
            return warn(f"could not be looked at on {node}: {events[-1]}")
        time.sleep(0.3)
    return result


def _conditions(pod: Mapping[str, Any]) -> Iterator[str]:
    """Why a pod waits for a node."""
    for one in pod["status"].get("conditions") or []:
        if one["type"] == "PodScheduled" and one["status"] != "True":
            yield one.get("message", "")
