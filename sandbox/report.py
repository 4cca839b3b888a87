"""What is there after an `up`, read from the API server and the stack's outputs, for a person."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client, config

SIMULATED = (
    "Simulated: the node and its containers, so nothing answers at these addresses. Real: engine,"
    " state, releases, API server, scheduler, volume binding, admission, MetalLB's address"
    " assignment, Prometheus' operator."
)


def report(
    kubeconfig: Path,
    context: str,
    outputs: dict[str, tuple[Any, bool]],
    charts: Mapping[str, str],
    reading: str,
) -> str:
    """The closing table; `reading` is the command that shows a secret output, less its name."""
    api = config.new_client_from_config(str(kubeconfig), context)  # type: ignore[no-untyped-call]
    # The client's types say of every field that it may be missing, also of those that never are.
    core: Any = client.CoreV1Api(api)
    blocks = [
        _block("output", _outputs(outputs, reading)),
        _block("volume", _volumes(core)),
        _block("address", _addresses(core)),
        _block("pod", _pods(core)),
        _block("release", ((name, _chart(chart)) for name, chart in charts.items())),
        _block("metrics", _metrics(core, client.CustomObjectsApi(api))),
    ]
    return "\n\n".join([*blocks, SIMULATED])


def _chart(chart: str) -> str:
    own = "; the sandbox's own: the published one cannot be had"
    return chart + (own if "-own." in chart else "")


def _outputs(outputs: dict[str, tuple[Any, bool]], reading: str) -> Iterable[Sequence[str]]:
    for name, (value, secret) in sorted(outputs.items()):
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        yield name, f"read it with: {reading}{name}" if secret else shown


def _volumes(core: Any) -> Iterable[Sequence[str]]:
    for volume in core.list_persistent_volume().items:
        claim = volume.spec.claim_ref
        wanted = f"{claim.namespace}/{claim.name}"
        # The operator's claim repeats its own name; its middle is enough to know it by.
        short = wanted if len(wanted) < 50 else f"{wanted[:32]}…{wanted[-12:]}"
        state = "bound" if volume.status.phase == "Bound" else "waits for its claim"
        yield short, f"{volume.spec.local.path}  {volume.spec.capacity['storage']}  {state}"


def _addresses(core: Any) -> Iterable[Sequence[str]]:
    for service in core.list_service_for_all_namespaces().items:
        if service.spec.type == "LoadBalancer":
            wanted = (service.metadata.annotations or {}).get("metallb.io/loadBalancerIPs", "any")
            given = [entry.ip for entry in service.status.load_balancer.ingress or []]
            ports = ", ".join(str(port.port) for port in service.spec.ports)
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            yield name, f"wanted {wanted}, given {', '.join(given) or 'none'}, port {ports}"


def _pods(core: Any) -> Iterable[Sequence[str]]:
    for pod in core.list_pod_for_all_namespaces().items:
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        yield name, f"{pod.status.phase} on {pod.spec.node_name or 'no node'}"


def _metrics(core: Any, custom: Any) -> Iterable[Sequence[str]]:
    """The metrics' way: who pushes where, what is scraped, who looks at it."""
    pushes: dict[str, list[str]] = {}
    for pod in core.list_pod_for_all_namespaces().items:
        for container in pod.spec.containers:
            for variable in container.env or []:
                if (variable.value or "").endswith("/v1/metrics"):
                    name = f"{pod.metadata.namespace}/{container.name}"
                    pushes.setdefault(variable.value, []).append(name)
    for url, names in pushes.items():
        yield "pushed", f"{', '.join(names)} to {url}"
    scraped = [found["metadata"]["name"] for found in _monitoring(custom, "servicemonitors")]
    yield "scraped", ", ".join(scraped)
    boards = core.list_config_map_for_all_namespaces(label_selector="grafana_dashboard=1").items
    shown = [json.loads(text)["title"] for board in boards for text in board.data.values()]
    yield "dashboards", ", ".join(sorted(shown))
    groups = [
        g for found in _monitoring(custom, "prometheusrules") for g in found["spec"]["groups"]
    ]
    rules = [rule for group in groups for rule in group["rules"]]
    yield "rules", f"{sum('alert' in rule for rule in rules)} alerts of {len(rules)} rules"


def _monitoring(custom: Any, kind: str) -> Any:
    return custom.list_cluster_custom_object("monitoring.coreos.com", "v1", kind)["items"]


def _block(title: str, rows: Iterable[Sequence[str]]) -> str:
    lines = [(title, ""), *rows]
    width = max(len(first) for first, *_ in lines)
    return "\n".join(f"  {first:<{width}}  {rest}".rstrip() for first, rest in lines)
