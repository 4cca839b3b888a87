"""Whether something else has what the stack is about to make: names, directories, addresses."""

import socket
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import PurePosixPath
from typing import Any

from ops.cluster import METADATA, Cluster, Key
from ops.doctor_checks import Result, fail, told, warn
from ops.doctor_laptop import at_home
from ops.drift_declared import State
from ops.program import Deployment

ADDON_RELEASES = ("kube-prom-stack", "loki", "tempo")
"""What MicroK8s' observability addon installs."""
LEFT_BY_RELEASE = (
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "/api/v1/namespaces/kube-system/services",
)
"""Where the release keeps what is in no namespace of its own; the last may stay behind."""
METALLB = "metallb-system"
POOLS = "/apis/metallb.io/v1beta1/ipaddresspools"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WEBHOOK = f"{LEFT_BY_RELEASE[2]}/metallb-webhook-configuration"


def observability(cluster: Cluster, state: State | None) -> Result:
    """Look for what the addon of this name has installed or left."""
    ours = {name for _, name in state.releases} if state else set()
    names = [name for name in ADDON_RELEASES if name not in ours]
    selector = f"owner=helm,name in ({','.join(names)})"
    secrets = _metadata(cluster, "/api/v1/secrets", labelSelector=selector)
    releases = sorted({f"{one['namespace']}/{one['labels']['name']}" for one in secrets})
    if releases:
        do = "on the house: sudo microk8s disable observability (its history goes), or helm delete"
        return fail(f"releases of another's making: {', '.join(releases)}", do)
    left = []
    if ADDON_RELEASES[0] in names:
        found = [one for path in LEFT_BY_RELEASE for one in _metadata(cluster, path)]
        left = sorted({one["name"] for one in found if one["name"].startswith(ADDON_RELEASES[0])})
        definitions = [one["name"] for one in _metadata(cluster, DEFINITIONS)]
        if old := [name for name in definitions if name.endswith(".monitoring.coreos.com")]:
            left.append(f"{len(old)} definitions of monitoring.coreos.com, never updated by Helm")
    if left:
        return warn(f"left by an earlier release: {', '.join(left)}", "delete what is not in use")
    return told([], "", "no leftovers of the addon")


def metallb(cluster: Cluster, state: State | None, mode: str) -> Result:
    """Look whether MetalLB is there although Helm is to install it, or not although the addon is.

    `mode` is `network.metallb` of the stack file.
    """
    definitions = [one["name"] for one in _metadata(cluster, DEFINITIONS)]
    found = [name for name in definitions if name.endswith(".metallb.io")]
    if mode == "addon":
        problems = [] if found else ["MetalLB is not there, but network.metallb says addon"]
        return told(problems, "on the house: sudo microk8s enable metallb", "the addon's is there")
    if state and (METALLB, "metallb") in state.releases:
        return told([], "", "the stack's own is there")
    there = [f"{len(found)} definitions of metallb.io"] if found else []
    there += [f"namespace {METALLB}"] if cluster.ask(f"/api/v1/namespaces/{METALLB}") else []
    there += ["its webhook"] if cluster.ask(WEBHOOK) else []
    problems = [f"MetalLB is there already: {', '.join(there)}"] if there else []
    do = "network.metallb: addon in the stack file, or on the house: sudo microk8s disable metallb"
    return told(problems, do, "no other MetalLB")


def names(cluster: Cluster, state: State | None, program: Deployment) -> Result:
    """Look for objects that the program declares, that are there, and that it has not made."""
    mine = state.objects if state else frozenset()
    new = [made.inputs for made in program.objects() if key(made.inputs) not in mine]
    declared = {key(made.inputs) for made in program.objects()}
    with ThreadPoolExecutor(8) as pool:
        there = [obj for obj, live in zip(new, pool.map(cluster.get, new), strict=True) if live]
    paths = [
        PurePosixPath(made.inputs["spec"]["local"]["path"])
        for made in program.of_kind("PersistentVolume")
    ]
    problems = [f"{obj['kind']} {_place(obj['metadata'])} is there already" for obj in there]
    problems += _directories(cluster, paths, mine | declared)
    do = "kubectl get it -o yaml: delete it if it is of no use, or pulumi import"
    return told(problems, do, f"{len(new)} names are free" if new else "all made by this stack")


def addresses(
    cluster: Cluster,
    program: Deployment,
    wanted: Mapping[str, int],
    pool: str,
    lan: str,
    *,
    is_up: bool,
) -> Result:
    """Look whether another Service, pool or device has one of the addresses `wanted`.

    Each has the port that it will answer on; `pool` is MetalLB's range in the network `lan`.
    """
    declared = {key(made.inputs) for made in program.objects()}
    problems = []
    for service in cluster.ask("/api/v1/services")["items"]:
        given = (service["status"].get("loadBalancer") or {}).get("ingress") or []
        metadata = service["metadata"]
        if ("", "Service", metadata["namespace"], metadata["name"]) not in declared:
            taken = [one["ip"] for one in given if one.get("ip") in wanted]
            problems += [f"{ip} is Service {_place(metadata)}'s" for ip in taken]
    for other in (cluster.ask(POOLS) or {"items": []})["items"]:
        metadata = other["metadata"]
        if ("metallb.io", "IPAddressPool", metadata["namespace"], metadata["name"]) in declared:
            continue
        ranges = other["spec"]["addresses"]
        if any(_overlap(pool, one) for one in ranges):
            problems.append(f"IPAddressPool {metadata['name']} has {', '.join(ranges)} too")
    seen = not is_up and any(at_home(lan, one) for one in wanted)
    if seen:
        problems += [f"{ip} is a device's" for ip, port in wanted.items() if _answers(ip, port)]
    do = "other addresses in the stack file (network.pool), or free these"
    if not (problems or seen or is_up):
        return warn(f"free in the cluster; this laptop is not in {lan} and sees no devices there")
    return told(problems, do, f"{', '.join(wanted)} free of others")


def key(obj: Mapping[str, Any]) -> Key:
    """The key of an object of the program."""
    group = obj["apiVersion"].rpartition("/")[0]
    metadata = obj["metadata"]
    return group, obj["kind"], metadata.get("namespace") or "", metadata["name"]


def _directories(
    cluster: Cluster, wanted: Iterable[PurePosixPath], mine: Iterable[Key]
) -> Iterator[str]:
    own = set(mine)
    for volume in cluster.ask("/api/v1/persistentvolumes")["items"]:
        name, spec = volume["metadata"]["name"], volume["spec"]
        where = (spec.get("local") or spec.get("hostPath") or {}).get("path")
        if not where or ("", "PersistentVolume", "", name) in own:
            continue
        path = PurePosixPath(where)
        for one in wanted:
            if path == one or path in one.parents or one in path.parents:
                yield f"PersistentVolume {name} has {path}, where {one} is to be"


def _metadata(cluster: Cluster, path: str, **query: str) -> list[dict[str, Any]]:
    # The metadata of nothing is null, and not an empty list.
    return [one["metadata"] for one in cluster.ask(path, METADATA, **query)["items"] or []]


def _place(metadata: Mapping[str, Any]) -> str:
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _overlap(one: str, other: str) -> bool:
    (first, last), (start, end) = _bounds(one), _bounds(other)
    return first <= end and start <= last


def _bounds(text: str) -> tuple[IPv4Address, IPv4Address]:
    """First and last address of a range or CIDR, as MetalLB writes them."""
    if ":" in text:  # A range of IPv6 overlaps with none of ours.
        return IPv4Address(0), IPv4Address(0)
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash:
        return IPv4Address(first), IPv4Address(last)
    network = IPv4Network(first, strict=False)
    return network[0], network[-1]


def _answers(address: str, port: int) -> bool:
    """Say whether a device is there: one that refuses is, too."""
    try:
        socket.create_connection((address, port), timeout=2).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True
