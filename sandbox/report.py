"""The closing table of an `up`, read from the API server and the stack's outputs."""

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
Rows = Iterable[tuple[str, str]]


def report(
    kubeconfig: Path,
    context: str,
    outputs: Mapping[str, tuple[Any, bool]],
    charts: Mapping[str, str],
    reading: str,
) -> str:
    """Return the table; `reading` is the command, without a name, that prints a secret output."""
    api = config.new_client_from_config(str(kubeconfig), context)  # type: ignore[no-untyped-call]
    # In the client's types each field may be None.
    core: Any = client.CoreV1Api(api)
    pods = core.list_pod_for_all_namespaces().items
    own = "; the sandbox's own: the published one cannot be had"
    releases = ((name, chart + own * ("-own." in chart)) for name, chart in charts.items())
    blocks = [
        _block("output", _outputs(outputs, reading)),
        _block("volume", _volumes(core)),
        _block("address", _addresses(core)),
        _block(
            "pod", ((_name(pod), f"{pod.status.phase} on {pod.spec.node_name}") for pod in pods)
        ),
        _block("release", releases),
        _block("metrics", _metrics(core, pods, client.CustomObjectsApi(api))),
    ]
    return "\n\n".join([*blocks, SIMULATED])


def _outputs(outputs: Mapping[str, tuple[Any, bool]], reading: str) -> Rows:
    for name, (value, secret) in sorted(outputs.items()):
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        yield name, f"read it with: {reading}{name}" if secret or "\n" in shown else shown


def _volumes(core: Any) -> Rows:
    for volume in core.list_persistent_volume().items:
        claim = f"{volume.spec.claim_ref.namespace}/{volume.spec.claim_ref.name}"
        # The name of the operator's claim repeats itself in the middle.
        short = claim if len(claim) < 50 else f"{claim[:32]}…{claim[-12:]}"
        state = "bound" if volume.status.phase == "Bound" else "waits for its claim"
        yield short, f"{volume.spec.local.path}  {volume.spec.capacity['storage']}  {state}"


def _addresses(core: Any) -> Rows:
    for service in core.list_service_for_all_namespaces().items:
        if service.spec.type == "LoadBalancer":
            wanted = (service.metadata.annotations or {}).get("metallb.io/loadBalancerIPs", "any")
            assigned = [entry.ip for entry in service.status.load_balancer.ingress or []]
            ports = ", ".join(str(port.port) for port in service.spec.ports)
            state = f"wanted {wanted}, assigned {', '.join(assigned) or 'none'}, port {ports}"
            yield _name(service), state


def _metrics(core: Any, pods: Sequence[Any], custom: Any) -> Rows:
    """Yield which containers push where, and the number or names of monitors and dashboards."""
    pushes: dict[str, list[str]] = {}
    for pod in pods:
        for container in pod.spec.containers:
            for variable in container.env or []:
                if (variable.value or "").endswith("/v1/metrics"):
                    name = f"{pod.metadata.namespace}/{container.name}"
                    pushes.setdefault(variable.value, []).append(name)
    for url, names in pushes.items():
        yield "pushed", f"{', '.join(names)} to {url}"

    def items(plural: str) -> list[Any]:
        listed = custom.list_cluster_custom_object("monitoring.coreos.com", "v1", plural)
        return list(listed["items"])

    yield "scraped", ", ".join(item["metadata"]["name"] for item in items("servicemonitors"))
    boards = core.list_config_map_for_all_namespaces(label_selector="grafana_dashboard=1").items
    titles = [json.loads(text)["title"] for board in boards for text in board.data.values()]
    yield "dashboards", ", ".join(sorted(titles))
    groups = [group for item in items("prometheusrules") for group in item["spec"]["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    yield "rules", f"{sum('alert' in rule for rule in rules)} alerts of {len(rules)} rules"


def _name(item: Any) -> str:
    return f"{item.metadata.namespace}/{item.metadata.name}"


def _block(title: str, rows: Rows) -> str:
    lines = [(title, ""), *rows]
    width = max(len(first) for first, _ in lines)
    return "\n".join(f"  {first:<{width}}  {rest}".rstrip() for first, rest in lines)
