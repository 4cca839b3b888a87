"""What the API server knows of a stack: pods and what they wait for, addresses, the last `up`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from config import Settings
from ops.cluster import Cluster, UnreadableError
from ops.drift_fields import APPLIERS

STACK = ("observability", "ollama-stack")
"""The stack's own namespaces."""
NAMESPACES = (*STACK, "kube-system", "metallb-system")
"""With those of what it needs."""
WORKLOADS = ("deployments", "statefulsets", "daemonsets")
STARTING = ("ContainerCreating", "PodInitializing")
"""What the kubelet says of a container while it pulls, mounts, or another one has to end first."""
STEPS = ("Scheduled", "Created", "Started", "Killing")
"""Reasons of events that end no wait; a pulled image does."""
ADDRESS = "metallb.io/loadBalancerIPs"


class Line(NamedTuple):
    """A line of a section."""

    name: str
    text: str
    fact: dict[str, Any]
    """The same for `--json`. What has a `problem` is not well, `since` then; times in ISO 8601."""


def pods(cluster: Cluster, _: Settings) -> list[Line]:
    """The pods that run or should, and the workloads that have too few; raises UnreadableError.

    One that has ended counts only if it failed and no newer one of its kind is there.
    """
    claims = _own(cluster, "/api/v1/persistentvolumeclaims")
    unbound = {_name(one) for one in claims if one["status"].get("phase") != "Bound"}
    facts, kinds = list[dict[str, Any]](), set[object]()
    for pod in sorted(_own(cluster, "/api/v1/pods"), key=_made, reverse=True):
        labels, phase = pod["metadata"].get("labels") or {}, pod["status"].get("phase")
        kind = pod["metadata"]["namespace"], labels.get("app.kubernetes.io/name", _name(pod))
        if phase != "Succeeded" and (phase != "Failed" or kind not in kinds):
            facts.append(_pod(cluster, pod, unbound))
        kinds.add(kind)
    for workload in (one for kind in WORKLOADS for one in _own(cluster, f"/apis/apps/v1/{kind}")):
        status = workload["status"]
        wanted = status.get("desiredNumberScheduled", workload["spec"].get("replicas", 0))
        there = status.get("currentNumberScheduled", status.get("replicas", 0))
        if there < wanted:
            failure = _conditions(workload).get("ReplicaFailure", {}).get("message")
            why = failure or _event(cluster, workload) or "no pod was made yet"
            about = {"pod": _name(workload), "ready": f"{there}/{wanted}", "restarts": 0}
            facts.append({**about, "problem": why, "since": _made(workload)})
    return [
        Line(one["pod"], f"{one['ready']} ready, {one['restarts']} restarts", one)
        for one in sorted(facts, key=lambda one: str(one["pod"]))
    ]


def addresses(cluster: Cluster, settings: Settings) -> list[Line]:
    """The addresses on the home network, and whether MetalLB gave them; raises UnreadableError."""
    wanted = {settings.webui.lan_address, settings.observability.lan_address} - {None}
    lines = list[Line]()
    for service in _own(cluster, "/api/v1/services"):
        if service["spec"]["type"] != "LoadBalancer":
            continue
        asked = (service["metadata"].get("annotations") or {}).get(ADDRESS)
        ingress = (service["status"].get("loadBalancer") or {}).get("ingress") or []
        given = [one.get("ip") for one in ingress]
        ports = [one["port"] for one in service["spec"]["ports"]]
        fact = {"service": _name(service), "address": asked, "ports": ports, "given": given}
        if not given or (asked and asked not in given):
            why = _event(cluster, service) or f"MetalLB has given {given or 'none'}"
            fact |= {"problem": why, "since": _made(service)}
        text = f"{asked or 'any'}:{','.join(map(str, ports))}, "
        text += "not given" if "problem" in fact else "given"
        lines.append(Line(_name(service), text, fact))
        wanted.discard(asked)
    return lines + [
        Line(address, "", {"address": address, "problem": "no Service asks for it"})
        for address in sorted(map(str, wanted))
    ]


def last_up(cluster: Cluster, _: Settings) -> list[Line]:
    """When an `up` last changed what runs, by who set its fields; raises UnreadableError."""
    times = [
        str(part["time"])
        for kind in WORKLOADS
        for one in _own(cluster, f"/apis/apps/v1/{kind}")
        for part in one["metadata"].get("managedFields") or []
        if one["metadata"]["namespace"] in STACK and APPLIERS.fullmatch(part["manager"])
    ]
    return [Line(f"changed something {span(at)} ago", "", {"at": at}) for at in sorted(times)[-1:]]


def span(time: str) -> str:
    """How long ago an ISO 8601 time was, or how far ahead it is."""
    seconds = abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    sizes = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((one for one in sizes if seconds >= 2 * one[0]), sizes[-1])
    return f"{seconds // size:.0f} {unit}"


def _own(cluster: Cluster, path: str) -> list[Any]:
    """Those at `path` that are in NAMESPACES."""
    items = cluster.read(path)["items"]
    return [one for one in items if one["metadata"]["namespace"] in NAMESPACES]


def _name(thing: Mapping[str, Any]) -> str:
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"


def _made(thing: Mapping[str, Any]) -> str:
    return str(thing["metadata"]["creationTimestamp"])


def _conditions(thing: Mapping[str, Any]) -> dict[str, Any]:
    return {one["type"]: one for one in thing["status"].get("conditions") or []}


def _pod(cluster: Cluster, pod: Mapping[str, Any], unbound: set[str]) -> dict[str, Any]:
    spec, status, about, conditions = pod["spec"], pod["status"], pod["metadata"], _conditions(pod)
    sidecars = [
        one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"
    ]
    stay = [one["name"] for one in [*sidecars, *spec["containers"]]]
    states = [
        one
        for part in ("initContainerStatuses", "containerStatuses")
        for one in status.get(part) or []
    ]
    ready = sum(one["ready"] for one in states if one["name"] in stay)
    restarts = sum(one["restartCount"] for one in states)
    fact = {"pod": _name(pod), "ready": f"{ready}/{len(stay)}", "restarts": restarts}
    well, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    if "deletionTimestamp" in about:
        why = "is being deleted"
    elif well.get("status") == "True":
        return fact
    elif scheduled.get("status") == "False":
        volumes = [one.get("persistentVolumeClaim") for one in spec.get("volumes") or []]
        mine = [f"{about['namespace']}/{one['claimName']}" for one in volumes if one]
        waits = [f"claim {one} is not bound" for one in mine if one in unbound]
        why = "; ".join([*waits, str(scheduled.get("message"))])
    else:
        stuck = next(filter(None, map(_stuck, states)), "")
        why = stuck or status.get("message") or _event(cluster, pod) or _starting(states)
    return {**fact, "problem": why, "since": well.get("lastTransitionTime") or _made(pod)}


def _stuck(state: Mapping[str, Any]) -> str:
    """Why a container cannot start or has failed; empty if it may still start."""
    waiting, last = state["state"].get("waiting") or {}, state["state"].get("terminated")
    reason, why = waiting.get("reason", ""), waiting.get("message", "")
    if reason in STARTING or not (reason or (last and last["exitCode"])):
        return ""
    if last := last or (state.get("lastState") or {}).get("terminated"):
        text = last.get("message") or last.get("reason") or ""
        why = f"exit code {last['exitCode']}: {text.strip()}"
    return ": ".join(filter(None, (state["name"], reason, why)))


def _starting(states: list[Any]) -> str:
    for one in states:
        if not one["ready"] and "running" in one["state"]:
            return f"{one['name']} runs, but is not ready"
        if not one["ready"]:
            return f"{one['name']} is being made of {one.get('image')}"
    return "its containers are not there yet"


def _event(cluster: Cluster, thing: Mapping[str, Any]) -> str:
    """What an object waits for by its newest event, or why that cannot be read.

    Empty where it says nothing of the kind; after an hour events are gone.
    """
    about = thing["metadata"]
    path = f"/api/v1/namespaces/{about['namespace']}/events"
    try:
        found = cluster.read(path, fieldSelector=f"involvedObject.uid={about['uid']}")["items"]
    except UnreadableError as error:
        return str(error)
    last = max((one for one in found if one["reason"] not in STEPS), key=_seen, default=None)
    if not last or (last["type"] != "Warning" and last["reason"] != "Pulling"):
        return ""
    # As in spec.containers{gateway}.
    container = (last["involvedObject"].get("fieldPath") or "").partition("{")[2].rstrip("}")
    return ": ".join(filter(None, (container, last["message"])))


def _seen(event: Mapping[str, Any]) -> str:
    """When an event was last seen; the scheduler and the kubelet say it in different fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")
