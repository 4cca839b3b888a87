"""Status of a stack from the API server: pods, addresses, the last `pulumi up`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from config import Settings
from ops.cluster import Cluster, UnreadableError
from ops.drift_fields import APPLIERS

STACK = ("observability", "ollama-stack")
"""Namespaces of the stack."""
NAMESPACES = (*STACK, "kube-system", "metallb-system")
"""Namespaces of the stack and of what it depends on."""
WORKLOADS = ("deployments", "statefulsets", "daemonsets")
STARTING = ("ContainerCreating", "PodInitializing")
"""Reasons of a container that waits for an image, a volume or an init container."""
STEPS = ("Scheduled", "Created", "Started", "Killing")
"""Reasons of events that are ignored, because the container may still wait."""
ADDRESS = "metallb.io/loadBalancerIPs"


class Line(NamedTuple):
    """A line of a section."""

    name: str
    text: str
    fact: dict[str, Any]
    """Its content for `--json`, with a `problem` and its time `since` if unhealthy; ISO 8601."""


def pods(cluster: Cluster, _: Settings) -> list[Line]:
    """Return the pods, and the workloads without all their pods; raises UnreadableError.

    A pod that has ended is included only if it failed and its application has no newer pod.
    """
    claims = _list(cluster, "/api/v1/persistentvolumeclaims")
    unbound = {_name(claim) for claim in claims if claim["status"].get("phase") != "Bound"}
    facts, applications = list[dict[str, Any]](), set[object]()
    for pod in sorted(_list(cluster, "/api/v1/pods"), key=_created, reverse=True):
        labels, phase = pod["metadata"].get("labels") or {}, pod["status"].get("phase")
        application = pod["metadata"]["namespace"], labels.get("app.kubernetes.io/name", _name(pod))
        if phase != "Succeeded" and (phase != "Failed" or application not in applications):
            facts.append(_pod(cluster, pod, unbound))
        applications.add(application)
    for workload in _workloads(cluster):
        status = workload["status"]
        desired = status.get("desiredNumberScheduled", workload["spec"].get("replicas", 0))
        current = status.get("currentNumberScheduled", status.get("replicas", 0))
        if current < desired:
            conditions = _conditions(workload)
            failure = conditions.get("ReplicaFailure", {}).get("message")
            reason = failure or _event(cluster, workload)[0] or "no pod has been created yet"
            fact = {"pod": _name(workload), "ready": f"{current}/{desired}", "restarts": 0}
            # Only a Deployment says since when; it may be much older than the wait.
            since = conditions.get("Available", {}).get("lastTransitionTime", _created(workload))
            facts.append({**fact, "problem": reason, "since": since})
    return [
        Line(fact["pod"], f"{fact['ready']} ready, {fact['restarts']} restarts", fact)
        for fact in sorted(facts, key=lambda fact: str(fact["pod"]))
    ]


def addresses(cluster: Cluster, settings: Settings) -> list[Line]:
    """Return the addresses on the home network that MetalLB should assign, and whether it did.

    Raises UnreadableError.
    """
    expected = {settings.webui.lan_address, settings.observability.lan_address} - {None}
    lines = list[Line]()
    for service in _list(cluster, "/api/v1/services"):
        if service["spec"]["type"] != "LoadBalancer":
            continue
        requested = (service["metadata"].get("annotations") or {}).get(ADDRESS)
        ingress = (service["status"].get("loadBalancer") or {}).get("ingress") or []
        assigned = [entry.get("ip") for entry in ingress]
        ports = [port["port"] for port in service["spec"]["ports"]]
        fact = {"service": _name(service), "address": requested, "ports": ports, "given": assigned}
        if not assigned or (requested and requested not in assigned):
            reason = _event(cluster, service)[0] or f"MetalLB has assigned {assigned or 'none'}"
            fact |= {"problem": reason, "since": _created(service)}
        text = f"{requested or 'any'}:{','.join(map(str, ports))}, "
        text += "not assigned" if "problem" in fact else "assigned"
        lines.append(Line(_name(service), text, fact))
        expected.discard(requested)
    return lines + [
        Line(address, "", {"address": address, "problem": "no Service requests it"})
        for address in sorted(map(str, expected))
    ]


def last_up(cluster: Cluster, _: Settings) -> list[Line]:
    """Return when `pulumi up` last changed a workload, by managedFields; raises UnreadableError."""
    times = [
        str(entry["time"])
        for workload in _workloads(cluster)
        for entry in workload["metadata"].get("managedFields") or []
        if workload["metadata"]["namespace"] in STACK
        # The API server may leave out the time.
        and "time" in entry
        and APPLIERS.fullmatch(entry["manager"])
    ]
    return [
        Line(f"changed a workload {span(time)} ago", "", {"at": time})
        for time in sorted(times)[-1:]
    ]


def waits(cluster: Cluster) -> dict[str, float]:
    """Return what each pod waits for, and for how many seconds; raises UnreadableError."""
    nothing: Any = None
    facts = [line.fact for line in pods(cluster, nothing)]
    return {f"{it['pod']}: {it['problem']}": _age(it["since"]) for it in facts if "problem" in it}


def span(time: str) -> str:
    """Return the time between now and an ISO 8601 time, such as `5 min`."""
    seconds = _age(time)
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next(((size, unit) for size, unit in units if seconds >= 2 * size), units[-1])
    return f"{seconds // size:.0f} {unit}"


def _age(time: str) -> float:
    """Return the seconds between now and an ISO 8601 time."""
    return abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())


def _list(cluster: Cluster, path: str) -> list[Any]:
    """Return the objects at `path` in NAMESPACES."""
    items = cluster.read(path)["items"]
    return [item for item in items if item["metadata"]["namespace"] in NAMESPACES]


def _workloads(cluster: Cluster) -> list[Any]:
    return [item for plural in WORKLOADS for item in _list(cluster, f"/apis/apps/v1/{plural}")]


def _name(obj: Mapping[str, Any]) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def _created(obj: Mapping[str, Any]) -> str:
    return str(obj["metadata"]["creationTimestamp"])


def _conditions(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {condition["type"]: condition for condition in obj["status"].get("conditions") or []}


def _pod(cluster: Cluster, pod: Mapping[str, Any], unbound: set[str]) -> dict[str, Any]:
    spec, status, conditions = pod["spec"], pod["status"], _conditions(pod)
    sidecars = [
        container
        for container in spec.get("initContainers") or []
        if container.get("restartPolicy") == "Always"
    ]
    names = [container["name"] for container in [*sidecars, *spec["containers"]]]
    statuses = [
        container
        for key in ("initContainerStatuses", "containerStatuses")
        for container in status.get(key) or []
    ]
    count = sum(container["ready"] for container in statuses if container["name"] in names)
    restarts = sum(container["restartCount"] for container in statuses)
    fact = {"pod": _name(pod), "ready": f"{count}/{len(names)}", "restarts": restarts}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    since = ready.get("lastTransitionTime") or _created(pod)
    if "deletionTimestamp" in pod["metadata"]:
        reason = "is being deleted"
    elif ready.get("status") == "True":
        return fact
    elif scheduled.get("status") == "False":
        sources = [volume.get("persistentVolumeClaim") for volume in spec.get("volumes") or []]
        namespace = pod["metadata"]["namespace"]
        claims = [f"{namespace}/{source['claimName']}" for source in sources if source]
        waits = [f"claim {claim} is not bound" for claim in claims if claim in unbound]
        reason = "; ".join([*waits, str(scheduled.get("message"))])
    else:
        failure = next(filter(None, map(_failure, statuses)), "") or status.get("message")
        reason, began = (failure, "") if failure else _event(cluster, pod)
        if not reason:
            reason, began = _starting(statuses)
        since = began or since
    return {**fact, "problem": reason, "since": since}


def _failure(status: Mapping[str, Any]) -> str:
    """Return why a container cannot start or has failed; empty if it may still start."""
    waiting, last = status["state"].get("waiting") or {}, status["state"].get("terminated")
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in STARTING or not (reason or (last and last["exitCode"])):
        return ""
    if last := last or (status.get("lastState") or {}).get("terminated"):
        text = last.get("message") or last.get("reason") or ""
        message = f"exit code {last['exitCode']}: {text.strip()}"
    return ": ".join(filter(None, (status["name"], reason, message)))


def _starting(statuses: list[Any]) -> tuple[str, str]:
    """Return what the first container that is not ready waits for, and since when, if known."""
    for status in statuses:
        if not status["ready"] and (running := status["state"].get("running")) is not None:
            return f"{status['name']} runs, but is not ready", running.get("startedAt", "")
        if not status["ready"]:
            return f"{status['name']} is being created from {status.get('image')}", ""
    return "its containers have not been created yet", ""


def _event(cluster: Cluster, obj: Mapping[str, Any]) -> tuple[str, str]:
    """Return an object's newest event if it is a warning, or a pull that goes on, and its time.

    Events are deleted after an hour. Returns the error if events cannot be read.
    """
    metadata = obj["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/events"
    try:
        events = cluster.read(path, fieldSelector=f"involvedObject.uid={metadata['uid']}")["items"]
    except UnreadableError as error:
        return str(error), ""
    newest = dict[str, Any]()
    for event in sorted(events, key=_last_seen):
        if event["reason"] not in STEPS:
            # A fieldPath such as spec.containers{gateway}; events of volumes have none.
            container = event["involvedObject"].get("fieldPath", "").partition("{")[2].rstrip("}")
            newest.pop(container, None)
            newest[container] = event
    for number, (container, event) in enumerate(reversed(newest.items())):
        # An older warning may be of what works by now, but a pull goes on beside other containers.
        if event["reason"] == "Pulling" or (event["type"] == "Warning" and not number):
            began = event.get("firstTimestamp") or _last_seen(event)
            return ": ".join(filter(None, (container, event["message"]))), began
    return "", ""


def _last_seen(event: Mapping[str, Any]) -> str:
    """Return an event's time; the scheduler and the kubelet use different fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")
