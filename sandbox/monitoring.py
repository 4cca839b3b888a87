"""Prometheus as its operator would run it, and the two exporters that need no kubelet."""

import base64
import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from sandbox.apiserver import probe
from sandbox.processes import Processes

NAMES = ("kube-state-metrics", "node-exporter", "prometheus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What the operator has made of a release's Prometheus, and how its exporters are started."""

    arguments: Mapping[str, Sequence[str]]
    """Of each container, by its name."""
    config: Mapping[str, Any]
    """Prometheus' own configuration."""

    @property
    def address(self) -> str:
        """Where pods reach Prometheus, as `service.namespace:port`."""
        (url,) = self.chosen("prometheus", "--web.external-url=http://")
        return url.partition("http://")[2]

    def chosen(self, container: str, *beginnings: str) -> list[str]:
        """The arguments of a container that begin so."""
        return [word for word in self.arguments[container] if word.startswith(beginnings)]


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
        flags = {
            "kube-state-metrics": [
                f"--kubeconfig={kubeconfig}",
                *(f"--host={at}", f"--port={self.ports['kube-state-metrics']}"),
                *(f"--telemetry-host={at}", f"--telemetry-port={self.ports['telemetry']}"),
            ],
            "node-exporter": [
                f"--web.listen-address={at}:{self.ports['node-exporter']}",
                *self.release.chosen("node-exporter", "--collector"),
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
        """Write configuration and rules, and give the flags."""
        self.write_rules(rules)
        config = {
            "global": {"scrape_interval": self.interval, "evaluation_interval": self.interval},
            "rule_files": [str(self.folder / "rules" / "*.yaml")],
            "storage": self.release.config["storage"],
            # What the operator makes of the monitors asks the API server, which these are not in.
            "scrape_configs": [
                self._target("kube-state-metrics", "kube-state-metrics", honor_labels=True),
                self._target(
                    "node-exporter", "node-exporter", metric_relabel_configs=self._disks()
                ),
                self._target(self.release.address.partition(".")[0], "prometheus"),
            ],
        }
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        return [
            f"--config.file={file}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
            *self.release.chosen("prometheus", "--web.enable", "--enable-feature"),
        ]

    def _target(self, job: str, name: str, **more: Any) -> dict[str, Any]:
        where = {
            "targets": [f"127.0.0.1:{self.ports[name]}"],
            # As a monitor adds it.
            "labels": {"namespace": self.release.address.partition(":")[0].partition(".")[2]},
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


@retry(
    retry=retry_if_exception_type(LookupError),
    stop=stop_after_delay(60),
    wait=wait_fixed(0.1),
    reraise=True,
)
def find_release(read: Callable[[str, str], list[dict[str, Any]]]) -> Release:
    """The release whose objects `read` gives by version and kind; waits for its operator.

    Raises LookupError after a minute.
    """
    arguments = {
        container["name"]: container.get("args", [])
        for kind in ("StatefulSet", "DaemonSet", "Deployment")
        for one in read("apps/v1", kind)
        for container in one["spec"]["template"]["spec"]["containers"]
    }
    data = [secret.get("data") or {} for secret in read("v1", "Secret")]
    packed = [one["prometheus.yaml.gz"] for one in data if "prometheus.yaml.gz" in one]
    if not packed or "prometheus" not in arguments:
        raise LookupError("no Prometheus of an operator")
    config = yaml.safe_load(gzip.decompress(base64.b64decode(packed[0])))
    return Release(arguments=arguments, config=config)


def _mountpoint(folder: Path) -> str:
    """Give the mount that holds `folder`."""
    mounts = {Path(part.mountpoint) for part in psutil.disk_partitions(all=True)}
    return str(next(at for at in (folder, *folder.parents) if at in mounts))
