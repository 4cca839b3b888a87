"""Prometheus, Alertmanager and Grafana as one Helm release, with dashboards and alerts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.core.v1 import ConfigMap, Secret
from pulumi_kubernetes.helm.v3 import Release
from pulumi_kubernetes.networking.v1 import NetworkPolicyIngressRuleArgsDict
from pulumi_random import RandomPassword

from components._kubernetes import (
    DNS,
    chart,
    from_pods,
    labels,
    policy,
    selector,
    service,
    to_pods,
)
from components.observability.alerts import alerts
from components.observability.dashboards import dashboards
from components.observability.notify import Notify, configuration
from components.observability.reader import ReadableSecrets, reader

CHART_VALUES: dict[str, Any] = yaml.load(
    Path(__file__).with_name("values.yaml").read_text(), yaml.CSafeLoader
)
"""Helm values of every stack."""

RELEASE = "kube-prom-stack"
CHART = "kube-prometheus-stack"
PUBLIC_CHART = f"oci://ghcr.io/prometheus-community/charts/{CHART}"

PROMETHEUS_CLAIM = f"prometheus-{RELEASE}-db-prometheus-{RELEASE}-0"
"""Claim that the Prometheus operator creates."""

PROMETHEUS_PORT = 9090
GRAFANA_PORT = 3000
PUSHER = {"homelab/pushes-metrics": "true"}
ADMIN_SECRET = "grafana-admin"
ALERTMANAGER_SECRET = "alertmanager-config"


class History(TypedDict):
    """Prometheus' volume, which is reserved for `PROMETHEUS_CLAIM`."""

    class_name: Input[str]
    """Its StorageClass."""
    size: str
    """Its capacity, such as `50Gi`."""
    retention_size: str
    """Prometheus' `retentionSize`, such as `40GiB`; it does not count the head block and WAL."""


class Monitored(TypedDict):
    """Inputs of dashboards and alerts."""

    disks: list[str]
    """Mount points of the data disks."""
    runbook: str
    """URL of the runbook, which has a section for each alert."""
    servers: dict[str, str]
    """Nodes of the model servers, by the server's name."""
    gpu_servers: NotRequired[list[str]]
    """Names of the servers with models on a GPU. Default: none."""
    backup_hours: NotRequired[int | None]
    """Hours between backups. Default: no backups."""
    backup_path: NotRequired[str]
    """Directory of the backups. Default: not monitored."""
    notify: NotRequired[Notify | None]
    """Receiver of alerts. Default: none."""


class GrafanaAccess(TypedDict):
    """Address of Grafana, and who may use it."""

    client_cidrs: list[str]
    """CIDRs that may open Grafana."""
    lan_address: str
    """Address on the home network."""
    address_pool: Input[str]
    """MetalLB pool of `lan_address`."""


class ObservabilityStackArgs(TypedDict):
    """Inputs of an `ObservabilityStack`."""

    namespace: Input[str]
    """Namespace of the release and all other objects."""
    chart_version: str
    """Version of the chart kube-prometheus-stack."""
    chart: NotRequired[str | None]
    """A directory, a `.tgz`, `oci://…` or `https://…`. Default: the public chart."""
    history: History
    monitored: Monitored
    access: GrafanaAccess
    pusher_namespaces: NotRequired[list[Input[str]]]
    """Namespaces whose pods with `pusher_labels` may push metrics. Default: none."""
    release_namespaces: NotRequired[dict[str, Input[str]]]
    """Namespaces of other Helm releases to check for drift, by logical name. Default: none."""
    readable_secrets: NotRequired[dict[str, ReadableSecrets]]
    """Secrets of other components to check for drift, by logical name. Default: none."""
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: any; Prometheus runs on its volume's node."""


class ObservabilityStack(ComponentResource):
    """kube-prometheus-stack, with Grafana on the home network, dashboards and alerts."""

    grafana_url: str
    """URL of Grafana."""
    admin_password: Output[str]
    """Password of Grafana's user `admin` (secret)."""
    otlp_url: Output[str]
    """Endpoint of OTLP over HTTP for pods with `pusher_labels`."""
    pusher_labels: dict[str, str]
    """Labels by which network policies allow a pod to reach `otlp_url`."""

    def __init__(
        self, name: str, args: ObservabilityStackArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:ObservabilityStack", name, {}, opts)
        namespace, access = args["namespace"], args["access"]
        child = ResourceOptions(parent=self)
        self.grafana_url = f"http://{access['lan_address']}:{GRAFANA_PORT}"
        self.otlp_url = Output.concat(
            f"http://{RELEASE}-prometheus.",
            namespace,
            f":{PROMETHEUS_PORT}/api/v1/otlp/v1/metrics",
        )
        self.pusher_labels = PUSHER

        self.admin_password = RandomPassword(
            f"{name}-admin-password", length=24, special=False, opts=child
        ).result
        admin = Secret(
            f"{name}-admin",
            metadata={"name": ADMIN_SECRET, "namespace": namespace, "labels": labels("grafana")},
            string_data={"admin-user": "admin", "admin-password": self.admin_password},
            opts=child,
        )

        monitored = args["monitored"]
        notify = monitored.get("notify")
        config: Output[str] = Output.secret(notify["secret"] if notify else "").apply(
            lambda secret: yaml.safe_dump(configuration(notify, secret), sort_keys=False)
        )
        alertmanager = Secret(
            f"{name}-alertmanager",
            metadata={
                "name": ALERTMANAGER_SECRET,
                "namespace": namespace,
                "labels": labels("alertmanager"),
            },
            string_data={"alertmanager.yaml": config},
            opts=child,
        )

        # A Release instead of a Chart, because Helm installs the CRDs before the custom resources.
        release = Release(
            f"{name}-release",
            name=RELEASE,
            namespace=namespace,
            **chart(CHART, args["chart_version"], args.get("chart") or PUBLIC_CHART),
            values=_merge(CHART_VALUES, _values(args, self.grafana_url)),
            max_history=5,
            # An interrupted wait leaves the release in `pending-install`, which blocks every
            # further upgrade.
            skip_await=True,
            opts=ResourceOptions(parent=self, depends_on=[admin, alertmanager]),
        )

        disks, runbook = monitored["disks"], monitored["runbook"]
        hours = monitored.get("backup_hours")
        for key, dashboard in dashboards(disks, runbook, hours).items():
            ConfigMap(
                f"{name}-{key}-dashboard",
                metadata={
                    "name": f"dashboard-{key}",
                    "namespace": namespace,
                    # Selects it for Grafana's sidecar.
                    "labels": {**labels("grafana"), "grafana_dashboard": "1"},
                },
                data={f"{key}.json": dashboard},
                opts=child,
            )
        rules = alerts(
            disks,
            runbook,
            monitored["servers"],
            gpu_servers=monitored.get("gpu_servers", ()),
            backup_hours=hours,
            backup_path=monitored.get("backup_path", "/"),
        )
        for key, spec in rules.items():
            CustomResource(
                f"{name}-{key}-alerts",
                api_version="monitoring.coreos.com/v1",
                kind="PrometheusRule",
                metadata={
                    "name": f"homelab-{key}",
                    "namespace": namespace,
                    "labels": labels("prometheus"),
                },
                spec=spec,
                # The release installs the CRD.
                opts=ResourceOptions(parent=self, depends_on=[release]),
            )

        grafana = {**selector("grafana"), "app.kubernetes.io/instance": RELEASE}
        service(
            f"{name}-grafana",
            # Not `grafana`: the chart's ServiceMonitor would match its labels and scrape it twice.
            "grafana-external",
            namespace,
            grafana,
            (GRAFANA_PORT, "grafana"),
            self,
            address=access["lan_address"],
            pool=access["address_pool"],
        )
        # Prometheus and Alertmanager have no authentication.
        policy(f"{name}-pods", namespace, {}, self, ingress=[{"from_": [{"pod_selector": {}}]}])
        clients: NetworkPolicyIngressRuleArgsDict = {
            "from_": [{"ip_block": {"cidr": cidr}} for cidr in access["client_cidrs"]],
            "ports": [{"protocol": "TCP", "port": GRAFANA_PORT}],
        }
        policy(f"{name}-grafana", namespace, grafana, self, ingress=[clients])
        pushers = args.get("pusher_namespaces", [])
        pushed = [from_pods(PUSHER, PROMETHEUS_PORT, *pushers)] if pushers else []
        policy(f"{name}-prometheus", namespace, selector("prometheus"), self, ingress=pushed)
        receiver = to_pods(selector("prometheus"), PROMETHEUS_PORT, namespace)
        for number, pusher in enumerate(pushers):
            policy(f"{name}-push-{number}", pusher, PUSHER, self, egress=[DNS, receiver])
        releases = {"own": namespace, **args.get("release_namespaces", {})}
        reader(name, namespace, releases, args.get("readable_secrets", {}), self)

        self.register_outputs({"grafana_url": self.grafana_url, "otlp_url": self.otlp_url})


def _values(args: ObservabilityStackArgs, grafana_url: str) -> dict[str, Any]:
    """Return the Helm values that depend on the stack's settings."""
    node, history = args.get("node"), args["history"]
    on_node = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        # Objects are named after the release, instead of by a name cut to 26 characters.
        "fullnameOverride": RELEASE,
        "cleanPrometheusOperatorObjectNames": True,
        "prometheus": {
            "prometheusSpec": {
                **on_node,
                "retentionSize": history["retention_size"],
                "storageSpec": {
                    "volumeClaimTemplate": {
                        "spec": {
                            "storageClassName": history["class_name"],
                            "accessModes": ["ReadWriteOnce"],
                            "resources": {"requests": {"storage": history["size"]}},
                        }
                    }
                },
            }
        },
        "prometheusOperator": on_node,
        "alertmanager": {
            "alertmanagerSpec": {
                **on_node,
                "useExistingSecret": True,
                "configSecret": ALERTMANAGER_SECRET,
            }
        },
        "kube-state-metrics": on_node,
        "grafana": {
            **on_node,
            "admin": {
                "existingSecret": ADMIN_SECRET,
                "userKey": "admin-user",
                "passwordKey": "admin-password",
            },
            "grafana.ini": {"server": {"root_url": grafana_url}},
            # The default, all namespaces, is forbidden by `rbac.namespaced`.
            "sidecar": {"dashboards": {"searchNamespace": args["namespace"]}},
        },
    }


def _merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` deeply merged with `override`."""
    merged = {**base}
    for key, value in override.items():
        is_nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if is_nested else value
    return merged
