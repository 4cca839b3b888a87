"""The stack with the published charts, and the sandbox's chart compared with them."""

import base64
import gzip
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from drift_lab import Kubectl, commands, kubeconfig_of, lines_of, look
from live_stack import LiveStack, addresses
from waiting import eventually

from components import PROMETHEUS_CLAIM
from config.versions import KUBE_PROMETHEUS_STACK, METALLB
from sandbox.build import Tools

VERSIONS = {"app.kubernetes.io/version", "chart", "helm.sh/chart"}
"""Labels with the version of the chart."""
WHOLE = ("labels", "Labels", "selector", "ports")
"""Fields that our chart must have completely; of others it may have a part."""


def test_every_claim_is_bound_and_every_pod_runs(live_stack: LiveStack) -> None:
    bound = ("observability-prometheus", "/mnt/evo4t/prometheus")
    assert eventually(lambda: f"observability/{PROMETHEUS_CLAIM}" in live_stack.bound())
    assert live_stack.bound()[f"observability/{PROMETHEUS_CLAIM}"] == bound
    assert len(live_stack.bound()) == 4

    def phases() -> set[str]:
        pods = live_stack.core.list_pod_for_all_namespaces().items
        return {pod.status.phase for pod in pods}

    assert eventually(lambda: phases() == {"Running", "Succeeded"}), phases()


def test_both_releases_have_the_pinned_versions(live_stack: LiveStack) -> None:
    state = json.loads(live_stack.engine.cli("stack", "export").stdout)["deployment"]["resources"]
    statuses = [item["outputs"]["status"] for item in state if item["type"].endswith(":Release")]

    assert {item["name"]: f"{item['chart']} {item['version']}" for item in statuses} == {
        "kube-prom-stack": f"kube-prometheus-stack {KUBE_PROMETHEUS_STACK}",
        "metallb": f"metallb {METALLB}",
    }


@contextmanager
def metallb(live_stack: LiveStack, tools: Tools) -> Iterator[None]:
    """Run MetalLB's controller with webhooks, in place of the release's pod."""
    (pod,) = (
        item.metadata.name
        for item in live_stack.pods("metallb-system")
        if item.metadata.name.startswith("metallb-controller")
    )
    command = [
        *(
            str(tools.program("metallb-controller")),
            f"--kubeconfig={live_stack.cluster.kubeconfig}",
        ),
        *("--namespace=metallb-system", f"--pod-name={pod}", "--webhook-mode=enabled"),
        *("--port=0", "--health-probe-port=0"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.kill()


def test_metallb_assigns_both_addresses_and_nothing_drifts_after_the_controllers_have_run(
    live_stack: LiveStack, tools: Tools, tmp_path: Path
) -> None:
    kubectl = Kubectl(live_stack)
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    hook = f"{hooks}/metallb-webhook-configuration"
    expected = {
        "open-webui-service-local": ["192.168.1.101"],
        "grafana-external": ["192.168.1.102"],
    }
    with metallb(live_stack, tools):
        assert eventually(
            lambda: "caBundle" in kubectl.ask("GET", hook)["webhooks"][0]["clientConfig"]
        )
        assert eventually(lambda: addresses(live_stack.core) == expected), addresses(
            live_stack.core
        )
    reader = tmp_path / "reader"
    reader.write_text(kubeconfig_of(live_stack, "homelab-reader"))
    admin = live_stack.cluster.kubeconfig.read_text()
    # Pulumi's plugins use this kubeconfig, too.
    live_stack.cluster.kubeconfig.write_text(reader.read_text())
    try:
        assert look(live_stack, reader) == ([], [])
    finally:
        live_stack.cluster.kubeconfig.write_text(admin)

    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/kube-prom-stack-kube-state-metrics"
    prometheus = "/apis/monitoring.coreos.com/v1/namespaces/observability/prometheuses"
    rules = len(kubectl.ask("GET", role)["rules"])
    kubectl.add(role, "/rules/-", {"apiGroups": [""], "resources": ["x"], "verbs": ["list"]})
    kubectl.add(f"{prometheus}/kube-prom-stack", "/spec/enableAdminAPI", True)
    kubectl.add(hook, "/webhooks/0/failurePolicy", "Fail")
    assert lines_of(look(live_stack)[0]) == {
        f"kube-prom-stack-kube-state-metrics: rules[{rules}]: got an object, want nothing",
        "kube-prom-stack: spec.enableAdminAPI: got True, want False",
        "metallb-webhook-configuration: webhooks[bgppeervalidationwebhook.metallb.io]"
        ".failurePolicy: got Fail, want Ignore",
    }
    for command in commands(live_stack):
        kubectl.run(command)
    assert look(live_stack) == ([], [])
    assert live_stack.up() == {}


def test_grafanas_sidecars_trust_the_authority_of_an_older_microk8s(live_stack: LiveStack) -> None:
    """It has no key usage (microk8s#4864), which Python's default demands since 3.13."""
    grafana = release_objects(live_stack)["Deployment", "observability", "kube-prom-stack-grafana"]
    pod = grafana["spec"]["template"]["spec"]
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    sidecars = {it["name"]: it for it in containers if "k8s-sidecar" in it["image"]}

    assert sidecars.keys() == {"grafana-sc-dashboard", "grafana-sc-datasources"}
    variable = {"name": "DISABLE_X509_STRICT_VERIFICATION", "value": "true"}
    assert [name for name, it in sidecars.items() if variable not in it["env"]] == []


def test_the_sandboxs_chart_is_a_part_of_the_published_one(live_stack: LiveStack) -> None:
    published = release_objects(live_stack)
    live_stack.edit(lambda keys: keys["homelab:charts"].pop("kube-prometheus-stack"))
    assert live_stack.up() == {"update": 1}
    ours = release_objects(live_stack)
    live_stack.reset()
    live_stack.up()

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
    elif ours != theirs:
        yield f"{at}: {ours}, is {theirs}"
