"""What the machines of a cluster have, as the API server and a short Job on each of them say."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from kubernetes.client import ApiException, BatchV1Api, CoreV1Api
from ruamel.yaml.scalarstring import LiteralScalarString
from urllib3.exceptions import HTTPError

from config.quantities import size
from config.settings import TAILNET
from config.versions import RESTIC_IMAGE
from ops import jobs
from ops.cluster import UnreadableError

NAMESPACE = "default"
LEAST = 16 * 1024**3
"""Bytes; a smaller one is a boot partition or a stick, and no disk for models."""
PATIENCE = 600
"""Seconds for one Job, most of which its image may take to come."""

PROGRAMS = Path(__file__).parent / "programs"
"""What the Jobs run on a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A mounted file system, and its bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A node: what it can give to pods, and what was seen on it."""

    name: str
    address: str
    cpus: int
    memory: int
    """Bytes, all that the kernel has."""
    gpus: tuple[str, ...]
    """Resources that a device plugin offers, such as `amd.com/gpu`."""
    disks: tuple[Disk, ...] = ()
    """The largest first, and the system's own last."""
    lan: IPv4Network | None = None
    tailnet: str | None = None
    taken: frozenset[str] | None = None
    """Addresses of its network that answered; None if nothing was asked."""


def of_nodes(nodes: Iterable[Mapping[str, Any]]) -> list[Machine]:
    """Give the machines behind Node objects, the one with the most memory first."""
    machines = []
    for node in nodes:
        status = node["status"]
        addresses = {entry["type"]: entry["address"] for entry in status["addresses"]}
        capacity = status["capacity"]
        machine = Machine(
            name=node["metadata"]["name"],
            address=addresses["InternalIP"],
            cpus=int(capacity["cpu"]),
            memory=size(capacity["memory"]),
            gpus=tuple(key for key in capacity if key.endswith("/gpu") and capacity[key] != "0"),
        )
        machines.append(machine)
    return sorted(machines, key=lambda machine: -machine.memory)


def job(machine: Machine, program: str, **environment: str) -> dict[str, Any]:
    """Give a Job that runs one of PROGRAMS on a machine, as root."""
    container = {
        "name": "look",
        "image": RESTIC_IMAGE,
        # As a block in what is shown of it.
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
            "activeDeadlineSeconds": PATIENCE,
            "ttlSecondsAfterFinished": 3600,
            "template": {"spec": pod},
        },
    }


def look_job(machine: Machine) -> dict[str, Any]:
    """Give the Job that looks at a machine; it changes nothing."""
    return job(machine, "look.sh", PREFIX=machine.address.rpartition(".")[0])


def directories_job(machine: Machine, disk: str, wanted: Mapping[str, tuple[str, str]]) -> Any:
    """Give the Job that makes directories on a mounted disk: `owner:group` and mode by path."""
    lines = "\n".join(f"{owner} {mode} {path}" for path, (owner, mode) in wanted.items())
    return job(machine, "directories.sh", DISK=disk, DIRECTORIES=lines)


def run(api: Any, body: Mapping[str, Any]) -> str:
    """Run a Job to its end, delete it, and give its log; raises UnreadableError."""
    # The client's types say of every field that it may be missing.
    batch: Any = BatchV1Api(api)
    core: Any = CoreV1Api(api)
    try:
        name = batch.create_namespaced_job(NAMESPACE, body).metadata.name
        try:
            jobs.wait(batch, core, NAMESPACE, name, PATIENCE, f"Job {name}")
            pod, container, code = jobs.ended(core, NAMESPACE, name)
            log = jobs.log(core, NAMESPACE, pod, container)
        finally:
            batch.delete_namespaced_job(name, NAMESPACE, propagation_policy="Background")
    except ApiException as error:
        raise UnreadableError(
            f"Job {NAMESPACE}/homelab-init: {error.status} {error.reason}"
        ) from error
    except HTTPError as error:
        raise UnreadableError(f"Job {NAMESPACE}/homelab-init: no answer: {error}") from error
    if code:
        raise UnreadableError(f"Job {name}: {(log or 'no output').splitlines()[-1]}")
    return log


def seen(machine: Machine, log: str) -> Machine:
    """Give the machine with what its Job has printed."""
    parts = dict(re.findall(r"^== (\w+)\n((?:(?!== ).*\n?)*)", log, re.M))
    network = _network(parts.get("route", ""), machine.address)
    own = set(re.findall(r"\|-- (\S+)\n +/32 host LOCAL", parts.get("addresses", "")))
    tailnet = sorted(address for address in own if IPv4Address(address) in TAILNET)
    arp = [line.split() for line in parts.get("arp", "").splitlines()[1:]]
    # 0x0: asked for, and nobody answered.
    answered = {fields[0] for fields in arp if fields[2] != "0x0"}
    return replace(
        machine,
        disks=_disks(parts.get("mounts", "")),
        lan=network,
        tailnet=tailnet[0] if tailnet else None,
        taken=frozenset(answered | own) if "arp" in parts else None,
    )


def _disks(text: str) -> tuple[Disk, ...]:
    disks = {}
    for line in text.splitlines():
        path, *numbers = line.split()
        if len(numbers) == 2 and (bytes_ := int(numbers[0]) * int(numbers[1])) >= LEAST:
            disks[path] = Disk(path=path, size=bytes_)
    system = ("/", "/var", "/usr")
    return tuple(
        sorted(
            (disk for disk in disks.values() if not disk.path.startswith(("/boot", "/snap"))),
            key=lambda disk: (disk.path in system, -disk.size),
        )
    )


def _network(routes: str, address: str) -> IPv4Network | None:
    """The network of an address, by the kernel's table: little-endian hexadecimal numbers."""

    def number(text: str) -> str:
        return str(IPv4Address(int.from_bytes(bytes.fromhex(text), "little")))

    for line in routes.splitlines()[1:]:
        fields = line.split()
        network = IPv4Network(f"{number(fields[1])}/{number(fields[7])}")
        if 0 < network.prefixlen < 32 and IPv4Address(address) in network:
            return network
    return None


def free_pair(lan: IPv4Network, address: str, taken: frozenset[str]) -> tuple[str, str]:
    """Give the first two neighbouring addresses after `address` that nobody has; raises ValueError.

    Two, because MetalLB takes one range: one address for the chat page, one for Grafana.
    """
    hosts = [str(host) for host in lan.hosts()]
    begin = hosts.index(address) + 1
    for one, other in zip(hosts[begin:], hosts[begin + 1 :], strict=False):
        if one not in taken and other not in taken:
            return one, other
    raise ValueError(f"no two free addresses after {address} in {lan}")
