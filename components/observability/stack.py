"""Prometheus and Grafana as one Helm release, with the house's own dashboards and alerts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml
from pulumi import ComponentResource, Input, Output, ResourceOptions
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.core.v1 import ConfigMap, Secret
from pulumi_kubernetes.helm.v3 import Release
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
from components.observability.reader import reader

CHART_VALUES: dict[str, Any] = yaml.load(
    Path(__file__).with_name("values.yaml").read_text(), yaml.CSafeLoader
)
"""Helm values that are the same in every stack."""

RELEASE = "kube-prom-stack"
CHART = "kube-prometheus-stack"
PUBLIC_CHART = f"oci://ghcr.io/prometheus-community/charts/{CHART}"

PROMETHEUS_CLAIM = f"prometheus-{RELEASE}-db-prometheus-{RELEASE}-0"
"""Claim that the operator makes for Prometheus' data."""

PROMETHEUS_PORT = 9090
GRAFANA_PORT = 3000
PUSHER = {"homelab/pushes-metrics": "true"}
ADMIN_SECRET = "grafana-admin"
ALERTMANAGER_SECRET = "alertmanager-config"


class History(TypedDict):
    """Prometheus' volume, which waits for the claim `PROMETHEUS_CLAIM`."""

    class_name: Input[str]
    """Its StorageClass."""
    size: str
    """Its size, such as `50Gi`."""
    retention_size: str
    """How much to keep, such as `40GiB`: less than the volume, for it leaves out the newest."""


class Watched(TypedDict):
    """What dashboards and alerts are about."""

    disks: list[str]
    """Mount points of the data disks."""
    runbook: str
    """Address of the page that says what to do; each alert has a section in it."""
    gpu: NotRequired[bool]
    """Whether models run on a GPU. Default: false."""
    backup_hours: NotRequired[int | None]
    """Hours between two backups. Default: there are none."""
    backup_path: NotRequired[str]
    """Folder on the node's disk that takes them. Default: not watched."""
    notify: NotRequired[Notify | None]
    """Where alerts go. Default: they are only to be seen."""


class ObservabilityStackArgs(TypedDict):
    """Inputs of an `ObservabilityStack`."""

    namespace: Input[str]
    """Namespace of the release and of everything beside it."""
    chart_version: str
    """Exact version of the chart kube-prometheus-stack."""
    chart: NotRequired[str | None]
    """Where it is: a folder, a `.tgz`, `oci://…` or `https://…`. Default: the public one."""
    history: History
    watched: Watched
    lan_address: str
    """Address of Grafana on the home network."""
    address_pool: Input[str]
    """MetalLB pool that has `lan_address`."""
    pushed_from: NotRequired[list[Input[str]]]
    """Namespaces whose pods with `pusher_labels` may push metrics. Default: none."""
    release_namespaces: NotRequired[dict[str, Input[str]]]
    """Others with a Helm release in which to look for drift, by logical name. Default: none."""
    node: NotRequired[str | None]
    """Host name of the node to run on. Default: any, but Prometheus follows its volume."""


class ObservabilityStack(ComponentResource):
    """kube-prometheus-stack, Grafana on the home network, and what Grafana shows."""

    grafana_url: str
    """Where Grafana is reached."""
    admin_password: Output[str]
    """Password of Grafana's user `admin` (secret)."""
    otlp_url: Output[str]
    """Where pods that carry `pusher_labels` push metrics, by OTLP over HTTP."""
    pusher_labels: dict[str, str]
    """Pod labels that open the way to `otlp_url`."""

    def __init__(
        self, name: str, args: ObservabilityStackArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("homelab:index:ObservabilityStack", name, {}, opts)
        namespace = args["namespace"]
        child = ResourceOptions(parent=self)
        self.grafana_url = f"http://{args['lan_address']}:{GRAFANA_PORT}"
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

        watched = args["watched"]
        notify = watched.get("notify")
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

        # A Release and not a Chart: only Helm itself installs the chart's CRDs before their users.
        release = Release(
            f"{name}-release",
            name=RELEASE,
            namespace=namespace,
            **chart(CHART, args["chart_version"], args.get("chart") or PUBLIC_CHART),
            values=_merged(CHART_VALUES, _values(args, self.grafana_url)),
            max_history=5,
            # A wait that is cut off leaves a release that Helm will not touch again.
            skip_await=True,
            opts=ResourceOptions(parent=self, depends_on=[admin, alertmanager]),
        )

        disks, runbook, hours = watched["disks"], watched["runbook"], watched.get("backup_hours")
        for key, dashboard in dashboards(disks, runbook, hours).items():
            ConfigMap(
                f"{name}-{key}-dashboard",
                metadata={
                    "name": f"dashboard-{key}",
                    "namespace": namespace,
                    # Grafana's sidecar looks for this label.
                    "labels": {**labels("grafana"), "grafana_dashboard": "1"},
                },
                data={f"{key}.json": dashboard},
                opts=child,
            )
        rules = alerts(
            disks,
            runbook,
            gpu=watched.get("gpu", False),
            backup_hours=hours,
            backup_path=watched.get("backup_path", "/"),
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
                # The release brings the kind.
                opts=ResourceOptions(parent=self, depends_on=[release]),
            )

        service(
            f"{name}-grafana",
            # A name, and so labels, that the chart's own monitor for Grafana does not match.
            "grafana-external",
            namespace,
            {**selector("grafana"), "app.kubernetes.io/instance": RELEASE},
            (GRAFANA_PORT, "grafana"),
            self,
            address=args["lan_address"],
            pool=args["address_pool"],
        )
        # What is pushed to Prometheus is believed: its receiver asks for no password.
        pushers = args.get("pushed_from", [])
        pushed = [from_pods(PUSHER, PROMETHEUS_PORT, *pushers)] if pushers else []
        policy(
            f"{name}-prometheus",
            namespace,
            selector("prometheus"),
            self,
            ingress=[{"from_": [{"pod_selector": {}}]}, *pushed],
        )
        receiver = to_pods(selector("prometheus"), PROMETHEUS_PORT, namespace)
        for number, pusher in enumerate(pushers):
            policy(f"{name}-push-{number}", pusher, PUSHER, self, egress=[DNS, receiver])
        reader(name, namespace, {"own": namespace, **args.get("release_namespaces", {})}, self)

        self.register_outputs({"grafana_url": self.grafana_url, "otlp_url": self.otlp_url})


def _values(args: ObservabilityStackArgs, grafana_url: str) -> dict[str, Any]:
    """The Helm values that depend on this house."""
    node, history = args.get("node"), args["history"]
    on_node = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    return {
        # The operator's objects are then called after the release, and not cut to 26 characters.
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
            # In all namespaces by default, which `rbac.namespaced` refuses.
            "sidecar": {"dashboards": {"searchNamespace": args["namespace"]}},
        },
    }


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees of values in one; where both have a leaf, `own` has the word."""
    merged = {**base}
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
