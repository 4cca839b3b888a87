"""What the monitoring promises."""

import json
import re
from typing import Any

import pytest
from harness import RESERVED, Deployment, deployed, stack_config

import config
from components.observability.alerts import alerts
from config.quantities import size


@pytest.fixture
def home() -> Deployment:
    """The stack `home`."""
    return deployed()


@pytest.fixture
def values(home: Deployment) -> dict[str, Any]:
    """The values of the monitoring chart."""
    return dict(home["kubernetes:helm.sh/v3:Release::monitoring-release"].inputs["values"])


def test_grafana_takes_the_generated_password(home: Deployment, values: dict[str, Any]) -> None:
    admin = values["grafana"]["admin"]
    secret = home["kubernetes:core/v1:Secret::monitoring-admin"].inputs

    assert admin["existingSecret"] == secret["metadata"]["name"]
    assert {admin["userKey"], admin["passwordKey"]} == set(secret["stringData"])
    assert "adminPassword" not in values["grafana"]
    # With a database of its own, Grafana would keep the first password whatever the Secret says.
    assert values["grafana"]["persistence"]["enabled"] is False


def test_grafana_is_reached_where_the_output_says(home: Deployment, values: dict[str, Any]) -> None:
    service = home["kubernetes:core/v1:Service::monitoring-grafana"].inputs
    (port,) = service["spec"]["ports"]
    address = service["metadata"]["annotations"]["metallb.io/loadBalancerIPs"]

    assert service["metadata"]["name"] == "grafana-external"
    assert home.outputs["grafana_url"] == f"http://{address}:{port['port']}"
    assert values["grafana"]["grafana.ini"]["server"]["root_url"] == home.outputs["grafana_url"]
    # The chart's monitor for Grafana selects Services by these two labels.
    assert service["metadata"]["labels"]["app.kubernetes.io/name"] != "grafana"


def test_grafana_requests_nothing_from_the_internet(values: dict[str, Any]) -> None:
    # With its defaults, Grafana 13 replaces its own plugins, that for Prometheus among them, by
    # those of grafana.com two seconds after each start (pkg/setting/setting_plugins.go).
    ini = values["grafana"]["grafana.ini"]

    assert ini["plugins"] == {"preinstall_disabled": True, "public_key_retrieval_disabled": True}
    assert set(ini["analytics"].values()) == {False}
    assert ini["news"] == {"news_feed_enabled": False}
    assert ini["security"] == {"disable_gravatar": True}


def test_no_alert_demands_a_spare_node(values: dict[str, Any]) -> None:
    """As the chart's: all requests must fit without the largest node, if there are several."""
    stack = config.read(stack_config("example-two-nodes"), RESERVED)
    requests = config.plan(stack, RESERVED).requests.values()
    smaller = min(stack.nodes.values(), key=lambda node: size(node.memory))

    assert sum(request.memory for request in requests) > size(smaller.memory)
    assert sum(request.cpu for request in requests) > smaller.cpus
    disabled = values["defaultRules"]["disabled"]
    assert disabled["KubeCPUOvercommit"]
    assert disabled["KubeMemoryOvercommit"]


def test_the_dashboard_and_the_alert_watch_the_data_disk(home: Deployment) -> None:
    dashboard = home["kubernetes:core/v1:ConfigMap::monitoring-server-dashboard"]
    alert = home["kubernetes:monitoring.coreos.com/v1:PrometheusRule::monitoring-disk-alerts"]
    watched = re.compile(r'mountpoint=~\\?"([^"\\]+)')
    queries = watched.findall(dashboard.inputs["data"]["server.json"])
    rules = watched.findall(json.dumps(alert.inputs["spec"]))

    assert set(queries) == set(rules) == {"/mnt/evo4t"}


def test_grafana_and_prometheus_find_every_dashboard_and_rule(home: Deployment) -> None:
    dashboards = [
        resource for resource in home.of_kind("ConfigMap") if "dashboard" in resource.name
    ]
    rules = home.of_kind("PrometheusRule")

    assert {resource.inputs["metadata"]["name"] for resource in dashboards} == {
        *("dashboard-ai", "dashboard-usage", "dashboard-server")
    }
    assert {
        resource.inputs["metadata"]["labels"]["grafana_dashboard"] for resource in dashboards
    } == {"1"}
    # The models run on the CPU here: no alert about a GPU.
    assert {resource.inputs["metadata"]["name"] for resource in rules} == {
        *("homelab-disk", "homelab-ollama", "homelab-pods", "homelab-prometheus", "homelab-webui")
    }
    assert all("monitoring-release" in resource.dependencies for resource in rules)


def test_pods_of_the_namespace_accept_connections_of_each_other_only(home: Deployment) -> None:
    policies = [
        it.inputs["spec"]
        for it in home.of_kind("NetworkPolicy")
        if it.inputs["metadata"]["namespace"] == "observability"
    ]
    selected = [it["podSelector"].get("matchLabels", {}) for it in policies]

    assert policies[0] == {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}],
    }
    # Alertmanager has no other clients.
    assert [it.get("app.kubernetes.io/name") for it in selected] == [None, "grafana", "prometheus"]


def test_clients_of_the_home_network_and_the_tailnet_open_grafana(home: Deployment) -> None:
    spec = home["kubernetes:networking.k8s.io/v1:NetworkPolicy::monitoring-grafana-policy"].inputs[
        "spec"
    ]
    service = home["kubernetes:core/v1:Service::monitoring-grafana"].inputs["spec"]
    (rule,) = spec["ingress"]

    assert spec["podSelector"]["matchLabels"] == service["selector"]
    assert [port["port"] for port in rule["ports"]] == [3000]
    assert {peer["ipBlock"]["cidr"] for peer in rule["from"]} == {
        *("192.168.1.0/24", "100.64.0.0/10", "192.168.1.100/32")
    }


def test_only_pods_that_push_metrics_reach_prometheus_from_elsewhere(
    home: Deployment, values: dict[str, Any]
) -> None:
    policies = {resource.name: resource.inputs for resource in home.of_kind("NetworkPolicy")}
    (pushed,) = policies["monitoring-prometheus-policy"]["spec"]["ingress"]
    (peer,) = pushed["from"]
    pusher = peer["podSelector"]["matchLabels"]
    way_out = policies["monitoring-push-0-policy"]
    (_, receiver) = way_out["spec"]["egress"]
    pods = {
        resource.name: resource.inputs["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for resource in home.of_kind(kind)
    }

    assert values["prometheus"]["prometheusSpec"]["enableOTLPReceiver"] is True
    assert peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "ollama-stack"
    assert {name for name, labels in pods.items() if pusher.items() <= labels.items()} == {
        "ollama-deployment",
        "open-webui-deployment",
    }
    # Both ends are closed by default, so both have to open.
    assert way_out["metadata"]["namespace"] == "ollama-stack"
    assert way_out["spec"]["podSelector"]["matchLabels"] == pusher
    assert [port["port"] for port in (*pushed["ports"], *receiver["ports"])] == [9090, 9090]


def test_disks_of_several_nodes_are_watched() -> None:
    text = json.dumps(
        alerts(["/mnt/b", "/mnt/a", "/mnt/a"], "docs/runbook.md", {"ollama": "evo4t"})
    )

    assert 'mountpoint=~\\"/mnt/a|/mnt/b\\"' in text
