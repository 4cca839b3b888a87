"""Who reaches whom, read from what is registered: Services, URLs in environments, policies."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ops.policies import Pod, Policies, asked_for, chosen, of_release
from ops.program import Deployment, Registration

URL = re.compile(r"https?://([\w.-]+):(\d+)(?:/\S*)?")


@dataclass(frozen=True, slots=True)
class Node:
    """What a path leads over: `kind` is address, service, container, pod or outside."""

    kind: str
    text: str
    group: str = ""
    """The pod or the release that it is a part of."""


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of a path; not `open` where a policy forbids it or nothing answers."""

    source: Node
    target: Node
    told: tuple[str, ...]
    """What leads here: an environment variable, a port, the policies that open it."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Path:
    """Steps that follow one another, to a pod of the program's own or to one of a release."""

    steps: tuple[Step, ...]
    to_release: bool


class Network:
    """All that a deployment says about who reaches whom."""

    def __init__(self, deployment: Deployment) -> None:
        self._services = sorted(deployment.of_kind("Service"), key=lambda made: made.name)
        policies = deployment.of_kind("NetworkPolicy")
        self._policies = Policies(policies)
        pods = [
            asked_for(made) for kind in ("Deployment", "Job") for made in deployment.of_kind(kind)
        ]
        for made in [*self._services, *policies]:
            # What selects none of the program's own pods is meant for those of a release.
            namespace, labels = made.inputs["metadata"]["namespace"], chosen(made)
            if labels and not any(pod.selected(namespace, labels) for pod in pods):
                releases = deployment.of_kind("Release")
                pods += [
                    of_release(made, r) for r in releases if r.inputs["namespace"] == namespace
                ]
        self._pods = sorted(pods, key=lambda pod: (pod.namespace, pod.name))

    def paths(self) -> Iterator[Path]:
        """Yield every path there is, in an order that does not change."""
        for service in self._services:
            yield from self._from_address(service)
        for pod in self._pods:
            for container in pod.containers:
                yield from self._from_host_port(pod, container)
                for (host, port), names in _urls(container).items():
                    source = _container(pod, container["name"])
                    found = list(self._to_url(pod, source, host, port, names))
                    nowhere = Step(source, Node("outside", f"{host}:{port}"), (*names,), open=False)
                    if found or host not in self._addresses():
                        yield from found or [Path((nowhere,), to_release=False)]
            for cidr, ports, policy in self._policies.outside(pod):
                told = (f"port {', '.join(ports) or 'any'}", f"by {policy}")
                step = Step(Node("pod", pod.name, _group(pod)), Node("outside", cidr), told)
                yield Path((step,), to_release=False)

    def _addresses(self) -> set[str]:
        """The addresses of the house itself, at which pages link to themselves."""
        ports = [port for pod in self._pods for one in pod.containers for port in _ports(one)]
        return {_address(service) for service in self._services} | {
            port.get("hostIP", "") for port in ports
        }

    def _from_address(self, service: Registration) -> Iterator[Path]:
        for own in service.inputs["spec"]["ports"] if _address(service) else []:
            for pod in self._behind(service):
                target, port = _at(pod, own["targetPort"])
                outside = Node("address", f"{_address(service)}:{own['port']}")
                into = Step(outside, _service(service), self._callers(pod, port))
                behind = Step(_service(service), target, (f"port {own['targetPort']}",))
                yield Path((into, behind), bool(pod.release))

    def _from_host_port(self, pod: Pod, container: Mapping[str, Any]) -> Iterator[Path]:
        for port in _ports(container):
            if "hostPort" in port:
                address = Node("address", f"{port.get('hostIP', 'node')}:{port['hostPort']}")
                told = ("host port", *self._callers(pod, port["containerPort"]))
                yield Path((Step(address, _container(pod, container["name"]), told),), False)

    def _callers(self, pod: Pod, port: int) -> tuple[str, ...]:
        return tuple(f"from {caller}" for caller in self._policies.callers(pod, port))

    def _to_url(
        self, pod: Pod, source: Node, host: str, port: int, names: list[str]
    ) -> Iterator[Path]:
        for container in pod.containers if host == "127.0.0.1" else []:
            if any(one.get("value") == f"{host}:{port}" for one in container.get("env", [])):
                target = _container(pod, container["name"])
                yield Path((Step(source, target, (*names, f"{host}:{port}")),), to_release=False)
        name, _, namespace = host.partition(".")
        for service in self._services:
            metadata = service.inputs["metadata"]
            if (metadata["name"], metadata["namespace"]) != (name, namespace or pod.namespace):
                continue
            for own in (one for one in service.inputs["spec"]["ports"] if one["port"] == port):
                for server in self._behind(service):
                    target, number = _at(server, own["targetPort"])
                    into = self._checked(pod, server, number, source, _service(service), names)
                    behind = Step(_service(service), target, (f"port {number}",))
                    yield Path((into, behind), bool(server.release))
        for server in self._pods:
            # A chart names its Services after the release and after what is behind them.
            own_name = name.startswith(server.release) and name.endswith(server.name)
            if server.release and server.namespace == namespace and own_name:
                target, told = _container(server, server.name), [*names, f"port {port}"]
                step = self._checked(pod, server, port, source, target, told)
                yield Path((step,), to_release=True)

    def _checked(
        self, source: Pod, target: Pod, port: int, at: Node, to: Node, told: Iterable[str]
    ) -> Step:
        opening = self._policies.opening(source, target, port)
        by = [f"by {', '.join(opening)}"] if opening else []
        return Step(at, to, (*told, *by), open=opening is not None)

    def _behind(self, service: Registration) -> list[Pod]:
        namespace = service.inputs["metadata"]["namespace"]
        return [pod for pod in self._pods if pod.selected(namespace, chosen(service))]


def _group(pod: Pod) -> str:
    return f"release {pod.release}" if pod.release else f"pod {pod.name}"


def _container(pod: Pod, name: str) -> Node:
    return Node("container", name, _group(pod))


def _service(made: Registration) -> Node:
    return Node("service", made.inputs["metadata"]["name"])


def _address(service: Registration) -> str:
    annotations = service.inputs["metadata"].get("annotations") or {}
    return str(annotations.get("metallb.io/loadBalancerIPs") or "")


def _ports(container: Mapping[str, Any]) -> list[dict[str, Any]]:
    return container.get("ports") or []


def _at(pod: Pod, port: str | int) -> tuple[Node, int]:
    """The container with that port, by name or number, and the number."""
    for container in pod.containers:
        for own in _ports(container):
            if port in (own.get("name"), own["containerPort"]):
                return _container(pod, container["name"]), own["containerPort"]
    # A release's pod, whose containers are not known here.
    return _container(pod, pod.name), port if isinstance(port, int) else 0


def _urls(container: Mapping[str, Any]) -> dict[tuple[str, int], list[str]]:
    """Where a container's environment leads, with the variables that say so."""
    found: dict[tuple[str, int], list[str]] = {}
    for variable in container.get("env", []):
        if url := URL.fullmatch(variable.get("value", "")):
            found.setdefault((url[1], int(url[2])), []).append(variable["name"])
    return found
