"""Who may reach what: the ways in that an object opens, as short texts to compare."""

import re
from collections.abc import Iterator
from typing import Any

from ops.changes import RELEASE, Difference, Made, code

LEVELS = ("restricted", "baseline", "privileged")
# Open WebUI's, that say who may come in.
SIGN_IN = ("ENABLE_SIGNUP", "WEBUI_AUTH", "WEBUI_AUTH_TRUSTED_EMAIL_HEADER")
# Charts' values: a way in from outside, or in Grafana one without its password.
OPENING = re.compile(r"(^|\.)(ingress|route|auth\.anonymous|auth\.proxy)(\.|$)")


def lines(difference: Difference) -> Iterator[str]:
    """Yield a line for each way in that a change opens or closes."""
    pairs: list[tuple[Made | None, Made | None]] = [
        *((changed.old, changed.new) for changed in difference.changed),
        *((made, None) for made in difference.removed),
        *((None, made) for made in difference.added),
    ]
    for old, new in pairs:
        was, now = (_ways(made) if made else set() for made in (old, new))
        title = (new or old).title  # type: ignore[union-attr]
        for way in sorted(now - was):
            yield f"**opened** by {title}: {way}"
        for way in sorted(was - now):
            yield f"closed by {title}: {way}"
        shut, still = (_closed(made) if made else set() for made in (old, new))
        for direction in sorted(shut - still):
            yield f"**opened** by {title}: it no longer closes {code(direction)} of its pods"


def _ways(made: Made) -> set[str]:
    """Every way in that `made` opens beyond the pods of its own namespace."""
    reading = {
        "Service": _service,
        "NetworkPolicy": _policy,
        "IPAddressPool": _pool,
        "Namespace": _namespace,
        "ClusterRole": _role,
        "Role": _role,
    }.get(made.kind)
    if made.type == RELEASE:
        return set(_values(made.properties.get("values", {})))
    return set(reading(made) if reading else _pod(made))


def _closed(made: Made) -> set[str]:
    """List the directions in which a NetworkPolicy closes its pods."""
    return set(made.spec.get("policyTypes", [])) if made.kind == "NetworkPolicy" else set()


def _service(made: Made) -> Iterator[str]:
    spec, annotations = made.spec, made.properties["metadata"].get("annotations") or {}
    ports = ", ".join(str(port["port"]) for port in spec.get("ports", []))
    if spec.get("type") == "LoadBalancer":
        address = annotations.get("metallb.io/loadBalancerIPs") or "any address of the pool"
        yield f"home network, {address} port {ports}"
        if spec.get("allocateLoadBalancerNodePorts", True):
            yield "a port on every address of the node, tailnet included"
    if spec.get("type") == "NodePort":
        yield f"a port on every address of the node, tailnet included, to port {ports}"
    for address in spec.get("externalIPs", []):
        yield f"{address} port {ports}"


def _policy(made: Made) -> Iterator[str]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in made.spec.get(direction) or []:
            ports = ", ".join(str(port.get("port", "any")) for port in rule.get("ports", []))
            for peer in rule.get(side) or [{}]:
                yield f"{direction} {side} {_peer(peer)}, port {ports or 'any'}"


def _peer(peer: dict[str, Any]) -> str:
    if block := peer.get("ipBlock"):
        but = f" but {', '.join(block['except'])}" if block.get("except") else ""
        return f"{block['cidr']}{but}"
    words = []
    for key, what in (("podSelector", "pods"), ("namespaceSelector", "namespace")):
        if key in peer:
            labels = (peer[key] or {}).get("matchLabels") or {}
            words.append(
                f"{what} {', '.join(f'{k}={v}' for k, v in sorted(labels.items())) or '*'}"
            )
    return " of ".join(words) or "anyone"


def _pool(made: Made) -> Iterator[str]:
    for address in made.spec.get("addresses", []):
        yield f"announced on the home network: {address}"
    if made.spec.get("autoAssign", True):
        yield "any Service that asks for no address in particular"
    for namespace in (made.spec.get("serviceAllocation") or {}).get("namespaces", ["*"]):
        yield f"addresses for Services of namespace {namespace}"


def _namespace(made: Made) -> Iterator[str]:
    labels = made.properties["metadata"].get("labels", {})
    level = labels.get("pod-security.kubernetes.io/enforce", "privileged")
    for allowed in LEVELS[1 : LEVELS.index(level) + 1]:
        yield f"pods up to Pod Security {code(allowed)}"


def _role(made: Made) -> Iterator[str]:
    for rule in made.properties.get("rules") or []:
        verbs = ", ".join(sorted(rule["verbs"]))
        named = f" named {', '.join(rule['resourceNames'])}" if rule.get("resourceNames") else ""
        for group in rule.get("apiGroups") or [""]:
            for what in rule.get("resources") or rule.get("nonResourceURLs") or []:
                yield f"{verbs} {code(f'{group}/{what}' if group else what)}{named}"


def _pod(made: Made) -> Iterator[str]:
    pod = (made.spec.get("template") or {}).get("spec") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{code(key)} of the node"
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"the node's {volume['hostPath']['path']}"
    for container in made.containers():
        for port in container.get("ports", []):
            if "hostPort" in port:
                yield f"the node's {port.get('hostIP', 'every address')} port {port['hostPort']}"
        if (container.get("securityContext") or {}).get("privileged"):
            yield f"container {code(container['name'])} is privileged"
        for variable in container.get("env", []):
            if variable["name"] in SIGN_IN:
                yield f"{code(variable['name'])} = {code(variable.get('value', 'from a Secret'))}"


def _values(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield what a chart's values open, by the names that charts commonly give it."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if not isinstance(value, dict):
            if value is True and key in ("hostNetwork", "hostPID"):
                yield code(here)
            continue
        if key == "service" and value.get("type", "ClusterIP") != "ClusterIP":
            yield f"{code(f'{here}.type')} = {code(value['type'])}"
        if value.get("enabled") is True and OPENING.search(here):
            yield code(f"{here}.enabled")
        yield from _values(value, here)
