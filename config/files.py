"""The data files beside this module and the programs that run in the cluster, as values."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent


def chart_values() -> dict[str, Any]:
    """The Helm values of kube-prometheus-stack that are the same in every house."""
    values: dict[str, Any] = yaml.safe_load((_HERE / "kube-prometheus-stack.yaml").read_text())
    return values


def dashboards(disks: Iterable[str]) -> dict[str, str]:
    """Grafana dashboards as JSON text, by name; they watch the mount points `disks`."""
    return {
        path.stem: json.dumps(json.loads(_about(path, disks)))
        for path in sorted((_HERE / "dashboards").glob("*.json"))
    }


def alerts(disks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """PrometheusRule specs by name; they watch the mount points `disks`."""
    return {
        path.stem: yaml.safe_load(_about(path, disks))
        for path in sorted((_HERE / "alerts").glob("*.yaml"))
    }


def workload(*names: str) -> dict[str, str]:
    """Files of a program in `workloads/` by name, to be mounted from a ConfigMap."""
    return {name: (_HERE.parent / "workloads" / name).read_text() for name in names}


def _about(path: Path, disks: Iterable[str]) -> str:
    """Read a file and put the data disks, as a PromQL regular expression, where it says @disks@."""
    return path.read_text().replace("@disks@", "|".join(sorted(set(disks))))
