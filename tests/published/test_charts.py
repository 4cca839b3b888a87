"""The stack on the published charts, and what the sandbox's own chart has of them."""

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

# Every version of a chart has others.
VERSIONS = {"app.kubernetes.io/version", "chart", "helm.sh/chart"}
WHOLE = ("labels", "Labels", "selector", "ports")
"""Fields of which our own chart states all or nothing; of others it may leave something out."""


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


def test_metallb_gives_both_addresses(live_stack: LiveStack, tools: Tools) -> None:
    published = {"kube-prom-stack": f"kube-prometheus-stack {KUBE_PROMETHEUS_STACK}"}
    released = live_stack.engine.charts()
    assert released in (published, {**published, "metallb": f"metallb {METALLB}"})
    # The controller that runs here has nothing to act on before the release has brought it.
    Cluster(live_stack.cluster.folder, tools).start([NODE])
    live_stack.connect()

    wanted = {
        "open-webui-service-local": ["192.168.1.101"],
        "grafana-external": ["192.168.1.102"],
    }
    assert eventually(lambda: addresses(live_stack.core) == wanted), addresses(live_stack.core)
    assert live_stack.up() == {}


@pytest.mark.parametrize("live_stack", ["addon"], indirect=True)
def test_the_sandboxs_own_chart_states_what_the_published_one_does(live_stack: LiveStack) -> None:
    published = made(live_stack)
    live_stack.edit(lambda keys: keys.pop("homelab:charts"))
    assert live_stack.up() == {"update": 1}
    ours = made(live_stack)

    assert {one[0] for one in ours} > {"Prometheus", "Alertmanager", "ServiceMonitor", "DaemonSet"}
    assert ours.keys() - published.keys() == set()
    found = {one: [*differences(stated, published[one])] for one, stated in ours.items()}
    assert {one: fields for one, fields in found.items() if fields} == {}


def made(live_stack: LiveStack) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Give the objects that Helm has made for the release, by kind, namespace and name."""
    label = "owner=helm,name=kube-prom-stack,status=deployed"
    (secret,) = live_stack.core.list_namespaced_secret("observability", label_selector=label).items
    packed = base64.b64decode(base64.b64decode(secret.data["release"]))
    manifest = json.loads(gzip.decompress(packed))["manifest"]
    objects = [one for one in yaml.load_all(manifest, yaml.CSafeLoader) if one]
    about = [(one["kind"], one["metadata"]) for one in objects]
    names = [(kind, one.get("namespace", ""), one["name"]) for kind, one in about]
    return dict(zip(names, objects, strict=True))


def differences(ours: Any, theirs: Any, at: str = "") -> Iterator[str]:
    """Tell each field that our chart states and the published one has not, or has otherwise."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        left_out = theirs.keys() - ours.keys() - VERSIONS if at.endswith(WHOLE) else set()
        yield from (f"{at}.{key}: left out" for key in sorted(left_out))
        for key, part in ours.items():
            yield from differences(part, theirs.get(key), f"{at}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, part in enumerate(ours):
            # Of a Service or a container, all that is said of a port.
            where = f"{at}[{number}].ports" if at.endswith("ports") else f"{at}[{number}]"
            yield from differences(part, theirs[number], where)
    elif at.endswith(".image"):
        if theirs.rpartition(":")[0] != ours:
            yield f"{at}: {ours}, is {theirs}"
    elif ours != theirs:
        yield f"{at}: {ours}, is {theirs}"
