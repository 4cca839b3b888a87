"""When an object counts as ready, and what to say when it does not become so."""

import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from sandbox.stand_in.base import NotReadyError, RefusedError

# Seconds; source: the await table of the official provider's documentation.
DEFAULT_LIMIT = 600.0
LIMITS = {"PersistentVolumeClaim": 300.0, "PersistentVolume": 300.0}
# Seconds between two looks; the first few are quick, because a simulated pod is.
PAUSES = (0.1, 0.2, 0.3, 0.5, 1.0)
# Events shown with a time-out, the newest; more hides the one that matters.
EVENTS = 4


class Lookup(Protocol):
    """The part of the cluster that readiness needs."""

    def get(self, obj: dict[str, Any]) -> dict[str, Any] | None:
        """Get the live object, if there is one."""

    def find(self, api_version: str, kind: str, namespace: str, selector: str = "") -> Any:
        """List the objects of a kind."""


def lacking(live: dict[str, Any], cluster: Lookup) -> str | None:
    """Say what `live` still needs to be ready; None if nothing.

    Raises NotReadyError for what will never be: a failed Job.
    """
    spec, status = live.get("spec") or {}, live.get("status") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or []}
    match live["kind"]:
        case "Deployment" | "StatefulSet":
            return _rollout(live, spec.get("replicas", 1), "readyReplicas", "updatedReplicas")
        case "DaemonSet":
            wanted = status.get("desiredNumberScheduled", 0)
            return _rollout(live, wanted, "numberReady", "updatedNumberScheduled")
        case "Job":
            if _true(conditions, "Failed"):
                failed = conditions["Failed"]
                reason = f"{title(live)} failed: {failed.get('reason')}: {failed.get('message')}"
                raise NotReadyError([reason, *reasons(live, cluster)], live)
            return None if _true(conditions, "Complete") else "not complete"
        case "PersistentVolumeClaim":
            phase = status.get("phase")
            if phase == "Bound" or (phase == "Pending" and _binds_later(spec, cluster)):
                return None
            return f"{phase}, not Bound"
        case "PersistentVolume":
            phase = status.get("phase")
            return None if phase in ("Available", "Bound") else f"{phase}, not Available or Bound"
        case "Service" if spec.get("type") == "LoadBalancer":
            ingress = (status.get("loadBalancer") or {}).get("ingress")
            return None if ingress else "no load balancer address"
        case "Namespace":
            return None if status.get("phase") == "Active" else f"{status.get('phase')}, not Active"
        case "CustomResourceDefinition":
            return None if _true(conditions, "Established") else "not established"
    return None


def _rollout(live: dict[str, Any], wanted: int, ready: str, updated: str) -> str | None:
    status = live.get("status") or {}
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return "not yet seen by its controller"
    if status.get(updated, 0) < wanted:
        return f"{status.get(updated, 0)} of {wanted} replicas up to date"
    if status.get(ready, 0) < wanted:
        return f"{status.get(ready, 0)} of {wanted} replicas ready"
    if (old := status.get("replicas", wanted) - wanted) > 0:
        return f"{old} old replicas still there"
    return None


def _true(conditions: dict[str, Any], kind: str) -> bool:
    return bool(conditions.get(kind, {}).get("status") == "True")


def _binds_later(spec: dict[str, Any], cluster: Lookup) -> bool:
    if spec.get("volumeName") or not spec.get("storageClassName"):
        return False
    found = cluster.get(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": spec["storageClassName"]},
        }
    )
    return bool(found and found.get("volumeBindingMode") == "WaitForFirstConsumer")


def title(obj: dict[str, Any]) -> str:
    """Name `obj` in an error, e.g. `Deployment ollama-stack/ollama`."""
    metadata = obj["metadata"]
    namespace = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{obj['kind']} {namespace}{metadata['name']}"


def limit(asked: float, obj: dict[str, Any]) -> float:
    """Give the seconds to wait: the request's, else the annotation's, else the kind's.

    Raises RefusedError for an annotation that is no number.
    """
    if asked:
        return asked
    annotations = obj["metadata"].get("annotations") or {}
    if text := annotations.get("pulumi.com/timeoutSeconds"):
        try:
            return float(text)
        except ValueError as error:
            message = f"{title(obj)}: pulumi.com/timeoutSeconds is no number: {text}"
            raise RefusedError(message) from error
    return LIMITS.get(obj["kind"], DEFAULT_LIMIT)


def skipped(obj: dict[str, Any]) -> bool:
    """Tell whether the program asks not to wait for `obj`."""
    annotations = obj["metadata"].get("annotations") or {}
    return annotations.get("pulumi.com/skipAwait") in ("true", "ready")


def pauses() -> Iterator[float]:
    """Give the seconds to sleep between looks, without end."""
    yield from PAUSES
    while True:
        yield PAUSES[-1]


def ready(
    live: dict[str, Any], cluster: Lookup, seconds: float, cancelled: threading.Event
) -> dict[str, Any]:
    """Wait until `live` is ready, and return it as it then is.

    Raises NotReadyError after `seconds`, when it vanishes or when the engine cancels.
    """
    end = time.monotonic() + seconds
    for pause in pauses():
        if (missing := lacking(live, cluster)) is None:
            return live
        if cancelled.is_set() or time.monotonic() >= end:
            why = "cancelled" if cancelled.is_set() else f"gave up after {seconds:g} s"
            first, *rest = [f"{title(live)}: {missing}, {why}", *reasons(live, cluster)]
            raise NotReadyError(["; ".join([first, *rest])], live)
        cancelled.wait(max(0.0, min(pause, end - time.monotonic())))
        if (now := cluster.get(live)) is None:
            raise NotReadyError([f"{title(live)}: deleted while waiting for it"], live)
        live = now
    raise AssertionError


def reasons(live: dict[str, Any], cluster: Lookup) -> list[str]:
    """Say why `live` may not be ready: what its pods say, then its newest events."""
    namespace = live["metadata"].get("namespace") or "default"
    family = [live]
    spec = live.get("spec") or {}
    labels = "template" in spec and (spec.get("selector") or {}).get("matchLabels")
    if labels:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        family += cluster.find("v1", "Pod", namespace, selector)
        family += cluster.find("apps/v1", "ReplicaSet", namespace, selector)
    uids = {member["metadata"].get("uid") for member in family}
    events = [
        event
        for event in cluster.find("v1", "Event", namespace)
        if event["involvedObject"].get("uid") in uids
    ]
    events.sort(key=lambda event: (event.get("type") == "Warning", _when(event)))
    said = [text for member in family[1:] for text in _complaints(member)]
    said += [f"{event.get('reason')}: {event.get('message')}" for event in events[-EVENTS:]]
    return list(dict.fromkeys(said))


def _when(event: dict[str, Any]) -> str:
    times = (event.get("lastTimestamp"), event.get("eventTime"))
    return str(next(filter(None, times), event["metadata"].get("creationTimestamp")))


def _complaints(pod: dict[str, Any]) -> Iterator[str]:
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield f"{condition.get('reason')}: {condition.get('message')}"
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}).values():
            if state and (state.get("message") or state.get("reason")) and "startedAt" not in state:
                yield f"{container['name']}: {state.get('reason')}: {state.get('message')}"
            elif state and state.get("exitCode"):
                text = state.get("message") or state.get("reason")
                yield f"{container['name']}: exit code {state['exitCode']}: {text}"
