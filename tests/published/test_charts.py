"""The stack with the published charts, and the sandbox's chart compared with them."""

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from live_stack import NODE, LiveStack, addresses
from waiting import eventually

from components import PROMETHEUS_CLAIM
from config.versions import KUBE_PROMETHEUS_STACK, METALLB
from sandbox.build import Tools
from sandbox.cluster import Cluster

VERSIONS = {"app.kubernetes.io/version", "chart", "helm.sh/chart"}
"""Labels with the version of the chart."""
WHOLE = ("labels", "Labels", "selector", "ports")
"""Fields that our chart must have completely; of others it may have a part."""


def test_every_claim_is_bound_and_every_pod_runs(live_stack: LiveStack) -> None:
    bound = ("observability-prometheus", "/mnt/evo4t/prometheus")
    assert eventually(lambda: f"observability/{PROMETHEUS_CLAIM}" in live_stack.bound())
    assert live_stack.bound()[f"observability/{PROMETHEUS_CLAIM}"] == bound
    assert len(live_stack.bound()) == 3

    def phases() -> set[str]:
        pods = [*live_stack.pods("observability"), *live_stack.pods("metallb-system")]
        return {pod.status.phase for pod in pods}

    assert eventually(lambda: phases() == {"Running"}), phases()


def test_a_second_up_changes_nothing(live_stack: LiveStack) -> None:
    assert live_stack.up() == {}


def test_metallb_assigns_both_addresses(live_stack: LiveStack, tools: Tools) -> None:
    published = {"kube-prom-stack": f"kube-prometheus-stack {KUBE_PROMETHEUS_STACK}"}
    state = json.loads(live_stack.engine.cli("stack", "export").stdout)["deployment"]["resources"]
    statuses = [item["outputs"]["status"] for item in state if item["type"].endswith(":Release")]
    released = {item["name"]: f"{item['chart']} {item['version']}" for item in statuses}
    assert released in (published, {**published, "metallb": f"metallb {METALLB}"})
    # The controller starts after the release has created its CRDs.
    Cluster(live_stack.cluster.folder, tools).start([NODE])
    live_stack.connect()

    expected = {
        "open-webui-service-local": ["192.168.1.101"],
        "grafana-external": ["192.168.1.102"],
    }
    assert eventually(lambda: addresses(live_stack.core) == expected), addresses(live_stack.core)
    assert live_stack.up() == {}


@pytest.mark.parametrize("live_stack", ["addon"], indirect=True)
def test_the_sandboxs_chart_is_a_part_of_the_published_one(live_stack: LiveStack) -> None:
    published = release_objects(live_stack)
    live_stack.edit(lambda keys: keys.pop("homelab:charts"))
    assert live_stack.up() == {"update": 1}
    ours = release_objects(live_stack)

    assert {name[0] for name in ours} > {
        "Prometheus",
        "Alertmanager",
        "ServiceMonitor",
        "DaemonSet",
    }
    assert ours.keys() - published.keys() == set()
    different = {name: [*differences(stated, published[name])] for name, stated in ours.items()}
    assert {name: fields for name, fields in different.items() if fields} == {}


def release_objects(live_stack: LiveStack) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the objects of the release, by kind, namespace and name."""
    label = "owner=helm,name=kube-prom-stack,status=deployed"
    (secret,) = live_stack.core.list_namespaced_secret("observability", label_selector=label).items
    packed = base64.b64decode(base64.b64decode(secret.data["release"]))
    manifest = json.loads(gzip.decompress(packed))["manifest"]
    objects = [item for item in yaml.load_all(manifest, yaml.CSafeLoader) if item]
    return {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
        for item in objects
    }


def differences(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """Yield each field of our chart that the published one lacks, or has with another value."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        left_out = theirs.keys() - ours.keys() - VERSIONS if at.endswith(WHOLE) else set()
        yield from (f"{at}.{key}: left out" for key in sorted(left_out))
        for key, part in ours.items():
            yield from differences(part, theirs.get(key), f"{at}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, part in enumerate(ours):
            # So that `WHOLE` applies to each port.
            path = f"{at}[{number}].ports" if at.endswith("ports") else f"{at}[{number}]"
            yield from differences(part, theirs[number], path)
    elif at.endswith(".image"):
        if theirs.rpartition(":")[0] != ours:
            yield f"{at}: {ours}, is {theirs}"
    elif ours != theirs:
        yield f"{at}: {ours}, is {theirs}"
