"""Hardware and networks of a cluster's nodes, by the API server and a short Job on each."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any

from kubernetes.client import BatchV1Api, CoreV1Api
from ruamel.yaml.scalarstring import LiteralScalarString

from config.hosts import PROFILES
from config.quantities import size
from config.settings import TAILNET
from config.versions import RESTIC_IMAGE
from ops import jobs
from ops.cluster import Cluster, UnreadableError, readable_errors
from ops.status_cluster import STACK

NAMESPACE = "default"
MIN_DISK = 16 * 1024**3
"""Bytes of the smallest data disk; smaller ones are boot partitions and USB sticks."""
SYSTEM = ("/boot", "/snap", "/usr", "/var")
"""Mount points, with all below them, that hold the system or volumes of pods."""
TIMEOUT = 600
"""Seconds for a Job, including the pull of its image."""

DEVICES = {profile.device: name for name, profile in PROFILES.items() if profile.device}
"""Profiles by the extended resource that they need."""
PROGRAMS = Path(__file__).parent / "programs"
"""Programs of the Jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A mounted file system, and its bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node: its capacity, and what its Job has printed."""

    name: str
    address: str
    cpus: int
    memory: int
    """Bytes that the kernel has."""
    gpus: tuple[str, ...]
    """Allocatable extended resources that are a device of a profile, such as `amd.com/gpu`."""
    disks: tuple[Disk, ...] = ()
    """The largest first, the system's disk last."""
    lan: IPv4Network | None = None
    tailnet: str | None = None
    gpu_memory: int | None = None
    """Bytes of system memory that its AMD GPU may use (GTT); None if unknown."""
    gpu_groups: tuple[int, ...] = ()
    """IDs of the groups that may open /dev/dri."""
    taken: frozenset[str] | None = None
    """Addresses of its network that are in use; None if unknown."""


def from_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[Machine]:
    """Return the machines of Node objects, the one with the most memory first."""
    machines = []
    for node in nodes:
        status = node["status"]
        addresses = {entry["type"]: entry["address"] for entry in status["addresses"]}
        capacity, allocatable = status["capacity"], status.get("allocatable", {})
        machine = Machine(
            name=node["metadata"]["name"],
            address=addresses["InternalIP"],
            cpus=int(capacity["cpu"]),
            memory=size(capacity["memory"]),
            # The capacity keeps a device whose plugin is gone.
            gpus=tuple(key for key in DEVICES if allocatable.get(key, "0") != "0"),
        )
        machines.append(machine)
    return sorted(machines, key=lambda machine: -machine.memory)


def has_metallb(cluster: Cluster) -> bool:
    """Return whether MetalLB is installed as MicroK8s' addon, not by Helm."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    pools = cluster.ask(f"{definitions}/ipaddresspools.metallb.io")
    annotations = (pools or {}).get("metadata", {}).get("annotations") or {}
    return bool(pools) and "meta.helm.sh/release-name" not in annotations


def assigned(cluster: Cluster) -> frozenset[str]:
    """Return the load balancer's addresses of Services that are not the stack's.

    The node that announces one gets no answer from it itself.
    """
    services = cluster.read("/api/v1/services")["items"]
    return frozenset(
        entry["ip"]
        for service in services
        if service["metadata"]["namespace"] not in STACK
        for entry in service["status"].get("loadBalancer", {}).get("ingress") or []
        if "ip" in entry
    )


def job(machine: Machine, program: str, **environment: str) -> dict[str, Any]:
    """Return a Job that runs a program of PROGRAMS on a machine, as root."""
    container = {
        "name": "look",
        "image": RESTIC_IMAGE,
        # A block scalar, because the YAML is printed.
        "command": ["sh", "-c", LiteralScalarString((PROGRAMS / program).read_text())],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "securityContext": {"privileged": True, "runAsUser": 0},
    }
    pod = {
        "nodeName": machine.name,
        "restartPolicy": "Never",
        "hostPID": True,
        "hostNetwork": True,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "homelab-init-", "namespace": NAMESPACE},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": TIMEOUT,
            "ttlSecondsAfterFinished": 3600,
            "template": {"spec": pod},
        },
    }


def look_job(machine: Machine) -> dict[str, Any]:
    """Return the Job that prints a machine's disks and networks; it changes nothing."""
    return job(machine, "look.sh", PREFIX=machine.address.rpartition(".")[0])


def directories_job(machine: Machine, disk: str, owners: Mapping[str, tuple[str, str]]) -> Any:
    """Return the Job that creates directories on a mounted disk: `owner:group` and mode by path."""
    lines = "\n".join(f"{owner} {mode} {path}" for path, (owner, mode) in owners.items())
    return job(machine, "directories.sh", DISK=disk, DIRECTORIES=lines)


def run(api: Any, body: Mapping[str, Any]) -> str:
    """Run a Job, delete it and return its log; raises UnreadableError."""
    # Any, because the client's types have None for every field.
    batch: Any = BatchV1Api(api)
    core: Any = CoreV1Api(api)
    with readable_errors(f"Job {NAMESPACE}/homelab-init"):
        name = batch.create_namespaced_job(NAMESPACE, body).metadata.name
        try:
            jobs.wait(batch, core, NAMESPACE, name, TIMEOUT, f"Job {name}")
            _, code, log = jobs.result(core, NAMESPACE, name)
        finally:
            batch.delete_namespaced_job(name, NAMESPACE, propagation_policy="Background")
    if isinstance(log, UnreadableError):
        raise log
    if code:
        raise UnreadableError(f"Job {name}: {(log or 'no output').splitlines()[-1]}")
    return log


def parse_log(machine: Machine, log: str) -> Machine:
    """Return the machine with the disks and networks in its Job's log."""
    sections = dict(re.findall(r"^== (\w+)\n((?:(?!== ).*\n?)*)", log, re.M))
    own = [IPv4Interface(line.split()[3]) for line in sections.get("addresses", "").splitlines()]
    networks = [
        it.network for it in own if str(it.ip) == machine.address and it.network.prefixlen < 32
    ]
    gpu = [line.split() for line in sections.get("gpu", "").splitlines()]
    arp = [line.split() for line in sections.get("arp", "").splitlines()[1:]]
    # Flags 0x0: no answer.
    answered = {fields[0] for fields in arp if fields[2] != "0x0"}
    return replace(
        machine,
        disks=_disks(sections.get("mounts", "")),
        lan=networks[0] if networks else None,
        tailnet=next((str(it.ip) for it in own if it.ip in TAILNET), None),
        gpu_memory=next((int(value) for key, value in gpu if key == "gtt"), None),
        gpu_groups=tuple(sorted({int(value) for key, value in gpu if key == "group"} - {0})),
        taken=frozenset(answered | {str(it.ip) for it in own}) if "arp" in sections else None,
    )


def _disks(text: str) -> tuple[Disk, ...]:
    disks: dict[str, Disk] = {}
    for line in text.splitlines():
        device, path, *numbers = line.split()
        if len(numbers) != 2 or f"{path}/".startswith(tuple(f"{top}/" for top in SYSTEM)):
            continue
        if (bytes_ := int(numbers[0]) * int(numbers[1])) >= MIN_DISK:
            # Later mounts of a device are bind mounts, such as those of a pod's volumes.
            disks.setdefault(device, Disk(path=path.replace(r"\040", " "), size=bytes_))
    return tuple(sorted(disks.values(), key=lambda disk: (disk.path == "/", -disk.size)))


def free_pair(lan: IPv4Network, address: str, taken: frozenset[str]) -> tuple[str, str] | None:
    """Return the first two consecutive free addresses after `address`, or None.

    They are consecutive because the pool is one range, for the chat page and Grafana. They are of
    the 254 addresses that the Job has asked.
    """
    start = int(IPv4Address(address))
    end = min(int(lan.broadcast_address), start | 0xFF)
    after = [str(IPv4Address(number)) for number in range(start + 1, end)]
    return next((pair for pair in pairwise(after) if taken.isdisjoint(pair)), None)
