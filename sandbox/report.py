"""The closing lines of `make up`, and the table of `make status`."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kubernetes import client, config

SIMULATED = "nothing answers here: the pods are simulated"
PAST = {"create": "created", "update": "updated", "delete": "deleted", "replace": "replaced"}
"""Past participles of the engine's operations, which are names such as `create`."""
Rows = Iterable[tuple[str, str]]


def summary(outputs: Mapping[str, tuple[Any, bool]], changes: Mapping[str, int], s: float) -> str:
    """Return the closing lines of an `up` that made these `changes` in `s` seconds."""
    counts = {PAST.get(op, op): count for op, count in changes.items() if op != "same"}
    counts["unchanged"] = changes.get("same", 0)
    return "\n".join(
        [
            f"chat page  {', '.join(outputs['open_webui_urls'][0])}",
            f"Grafana    {outputs['grafana_url'][0]}",
            f"           {SIMULATED}",
            "password   make output NAME=open_webui_password",
            "",
            f"{', '.join(f'{name} {count}' for name, count in counts.items())}, in {s:.0f} s",
            "next: make status, make diff or make down; to chat in your browser: sudo make demo",
        ]
    )


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
    own = "; the sandbox's own: the published chart cannot be downloaded"
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
    return "\n\n".join(blocks)


def _outputs(outputs: Mapping[str, tuple[Any, bool]], reading: str) -> Rows:
    for name, (value, secret) in sorted(outputs.items()):
        shown = ", ".join(value) if isinstance(value, list) else str(value)
        yield name, f"{reading}{name}" if secret or "\n" in shown else shown


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
            requested = (service.metadata.annotations or {}).get("metallb.io/loadBalancerIPs")
            assigned = [entry.ip for entry in service.status.load_balancer.ingress or []]
            ports = ", ".join(str(port.port) for port in service.spec.ports)
            state = f"{requested or 'any'}:{ports}, {'assigned' if assigned else 'not assigned'}"
            yield _name(service), f"{state}; {SIMULATED}"


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
