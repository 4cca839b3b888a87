"""Prometheus as its operator would run it, and the two exporters that need no kubelet."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from sandbox.apiserver import probe
from sandbox.plugins import CHART
from sandbox.processes import Processes, SandboxError

NAMES = ("kube-state-metrics", "node-exporter", "prometheus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A Helm release of kube-prometheus-stack, as it was asked for."""

    name: str
    namespace: str
    values: Mapping[str, Any]

    @property
    def prometheus(self) -> str:
        """Name of Prometheus' Service, which its own targets carry as their job."""
        return f"{self.values['fullnameOverride']}-prometheus"

    @property
    def address(self) -> str:
        """Where pods reach Prometheus."""
        return f"{self.prometheus}.{self.namespace}:9090"


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring:
    """Prometheus, kube-state-metrics and node-exporter on 127.0.0.1."""

    release: Release
    processes: Processes
    programs: Mapping[str, Path]
    """What to run, by the name in `NAMES`."""
    folder: Path
    ports: Mapping[str, int]
    """Local ports, by the name in `NAMES`; `telemetry` for kube-state-metrics' own."""
    disks: Mapping[str, Path]
    """Folders that stand for data disks, by the path of the disk on its node."""
    interval: str = "30s"
    """Time between two scrapes and two evaluations; the chart's own."""

    def start(self, kubeconfig: Path, rules: Mapping[str, Any]) -> None:
        """Start all three on the cluster of `kubeconfig`, with PrometheusRule specs by name."""
        at = "127.0.0.1"
        exporter = self.release.values.get("prometheus-node-exporter", {})
        flags = {
            "kube-state-metrics": [
                f"--kubeconfig={kubeconfig}",
                *(f"--host={at}", f"--port={self.ports['kube-state-metrics']}"),
                *(f"--telemetry-host={at}", f"--telemetry-port={self.ports['telemetry']}"),
                *self.release.values.get("kube-state-metrics", {}).get("extraArgs", []),
            ],
            "node-exporter": [
                f"--web.listen-address={at}:{self.ports['node-exporter']}",
                *exporter.get("extraArgs", []),
            ],
            "prometheus": self._prometheus(rules),
        }
        for name in NAMES:
            environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
            self.processes.start(name, [self.programs[name], *flags[name]], environment)
        for name, path in zip(NAMES, ("/livez", "/", "/-/ready"), strict=True):
            self.processes.retry(name, partial(probe, self.ports[name], path))

    def write_rules(self, rules: Mapping[str, Any]) -> None:
        """Write PrometheusRule specs where Prometheus finds them, in place of what is there."""
        folder = self.folder / "rules"
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.yaml"):
            file.unlink()
        for name, spec in rules.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))

    def _prometheus(self, rules: Mapping[str, Any]) -> Sequence[str]:
        """Write configuration and rules, and give the flags, all as the operator makes them."""
        self.write_rules(rules)
        spec = self.release.values["prometheus"]["prometheusSpec"]
        # The operator's pkg/prometheus/promcfg.go: since 3.11 all of this is in the file.
        tsdb: dict[str, Any] = {
            "retention": {
                written: spec[key]
                for key, written in (("retention", "time"), ("retentionSize", "size"))
                if key in spec
            }
        }
        if window := spec.get("tsdb", {}).get("outOfOrderTimeWindow"):
            tsdb["out_of_order_time_window"] = window
        config = {
            "global": {"scrape_interval": self.interval, "evaluation_interval": self.interval},
            "rule_files": [str(self.folder / "rules" / "*.yaml")],
            "storage": {"tsdb": tsdb},
            "scrape_configs": [
                self._target("kube-state-metrics", "kube-state-metrics", honor_labels=True),
                self._target(
                    "node-exporter", "node-exporter", metric_relabel_configs=self._disks()
                ),
                self._target(self.release.prometheus, "prometheus"),
            ],
        }
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        flags = [
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
            "--web.enable-lifecycle",
        ]
        if spec.get("enableOTLPReceiver"):
            flags.append("--web.enable-otlp-receiver")
        if features := spec.get("enableFeatures"):
            flags.append(f"--enable-feature={','.join(features)}")
        return flags

    def _target(self, job: str, name: str, **more: Any) -> dict[str, Any]:
        where = {
            "targets": [f"127.0.0.1:{self.ports[name]}"],
            "labels": {"namespace": self.release.namespace},
        }
        return {"job_name": job, "static_configs": [where], **more}

    def _disks(self) -> list[dict[str, Any]]:
        """Call the filesystem that holds a folder by the disk that the folder stands for."""
        return [
            {
                "source_labels": ["__name__", "mountpoint"],
                "regex": f"node_filesystem_.+;{_mountpoint(folder)}",
                "target_label": "mountpoint",
                "replacement": disk,
            }
            for disk, folder in self.disks.items()
        ]


def recorded_release(state: str) -> Release:
    """Find the release of the chart in the engine's exported state (JSON)."""
    for made in json.loads(state)["deployment"]["resources"]:
        if made["type"] == "kubernetes:helm.sh/v3:Release" and CHART in made["inputs"]["chart"]:
            inputs = made["inputs"]
            return Release(
                name=inputs["name"], namespace=inputs["namespace"], values=inputs["values"]
            )
    raise SandboxError(f"the stack has no Helm release of {CHART}")


def _mountpoint(folder: Path) -> str:
    """Give the mount that holds `folder`."""
    mounts = {Path(part.mountpoint) for part in psutil.disk_partitions(all=True)}
    return str(next(at for at in (folder, *folder.parents) if at in mounts))
