"""What the registered network policies let through, to and from the pods they select."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ops.program import Registration

Direction = Literal["Ingress", "Egress"]
NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that the program asks for, or one of a Helm release that something here selects."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    """Of a release's pod only those that it is selected by: no more is known here."""
    containers: tuple[Mapping[str, Any], ...] = ()
    release: str = ""

    def selected(self, namespace: str, wanted: Mapping[str, str]) -> bool:
        """Say whether a selector in a namespace finds this pod."""
        return self.namespace == namespace and wanted.items() <= self.labels.items()


def asked_for(made: Registration) -> Pod:
    """The pod of a Deployment or a Job."""
    metadata, template = made.inputs["metadata"], made.inputs["spec"]["template"]
    spec = template["spec"]
    containers = (*spec["containers"], *spec.get("initContainers", []))
    return Pod(stable(metadata["name"]), metadata["namespace"], _labels(template), containers)


def of_release(made: Registration, release: Registration) -> Pod:
    """The pod of a release that a Service or a policy of the program selects."""
    wanted = chosen(made)
    name, namespace = wanted["app.kubernetes.io/name"], made.inputs["metadata"]["namespace"]
    return Pod(name, namespace, wanted, release=release.inputs["name"])


def chosen(made: Registration) -> dict[str, str]:
    """The labels that a Service or a policy selects its pods by; none is every pod."""
    spec = made.inputs["spec"]
    if "podSelector" in spec:
        return spec["podSelector"].get("matchLabels") or {}
    return spec.get("selector") or {}


def stable(name: str) -> str:
    """A Job's name less the digits that change with what it does."""
    return re.sub(r"-[0-9a-f]{8}$", "", name)


class Policies:
    """All policies of a program."""

    def __init__(self, registered: Sequence[Registration]) -> None:
        self._registered = sorted(registered, key=lambda made: made.name)

    def opening(self, source: Pod, target: Pod, port: int) -> list[str] | None:
        """Name the policies that let `source` reach `target`; None where one side is closed."""
        out = self._side(source, "Egress", port, lambda at, peer: _means(at, peer, target))
        into = self._side(target, "Ingress", port, lambda at, peer: _means(at, peer, source))
        return None if out is None or into is None else [*dict.fromkeys([*out, *into])]

    def callers(self, pod: Pod, port: int) -> list[str]:
        """List the address ranges outside the cluster that may call a pod at a port."""
        if not self._closing(pod, "Ingress"):
            return ["anywhere"]
        found = [
            peer.get("ipBlock", {}).get("cidr", "") if peer else "anywhere"
            for _, rule in self._rules(pod, "Ingress")
            for peer in (_peers(rule) if _has_port(rule, port) else [])
        ]
        return [*dict.fromkeys(filter(None, found))] or ["nowhere"]

    def outside(self, pod: Pod) -> Iterator[tuple[str, list[str], str]]:
        """Yield each address range that a pod may call, its ports, and the policy that says so."""
        for name, rule in self._rules(pod, "Egress"):
            for block in (peer["ipBlock"] for peer in _peers(rule) if "ipBlock" in peer):
                but = " less private ranges" if block.get("except") else ""
                ports = [str(port["port"]) for port in rule.get("ports", [])]
                yield f"{block['cidr']}{but}", ports, name

    def _side(
        self, pod: Pod, side: Direction, port: int, means: Callable[[str, dict[str, Any]], bool]
    ) -> list[str] | None:
        found = [
            name
            for name, rule in self._rules(pod, side)
            if _has_port(rule, port) and any(means(pod.namespace, peer) for peer in _peers(rule))
        ]
        return found or (None if self._closing(pod, side) else [])

    def _rules(self, pod: Pod, side: Direction) -> Iterator[tuple[str, dict[str, Any]]]:
        for made in self._closing(pod, side):
            for rule in made.inputs["spec"].get(side.lower()) or []:
                yield made.inputs["metadata"]["name"], rule

    def _closing(self, pod: Pod, side: Direction) -> list[Registration]:
        return [
            made
            for made in self._registered
            if side in made.inputs["spec"]["policyTypes"]
            and pod.selected(made.inputs["metadata"]["namespace"], chosen(made))
        ]


def _labels(carrier: Mapping[str, Any]) -> dict[str, str]:
    return {**carrier["metadata"].get("labels", {})}


def _peers(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The peers of a rule; one that names none means everybody, as the empty peer does here."""
    return rule.get("from") or rule.get("to") or [{}]


def _has_port(rule: Mapping[str, Any], port: int) -> bool:
    return not rule.get("ports") or any(one["port"] == port for one in rule["ports"])


def _means(at: str, peer: Mapping[str, Any], pod: Pod) -> bool:
    """Say whether the peer of a rule in the namespace `at` means this pod."""
    if not peer or "ipBlock" in peer:
        return not peer
    namespaces = (peer.get("namespaceSelector") or {}).get("matchLabels") or {}
    if "namespaceSelector" not in peer:
        namespaces = {NAMESPACE: at}
    pods = (peer.get("podSelector") or {}).get("matchLabels") or {}
    return namespaces.items() <= {NAMESPACE: pod.namespace}.items() and pod.selected(
        pod.namespace, pods
    )
