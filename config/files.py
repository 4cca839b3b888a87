"""The data files beside this module and the programs that run in the cluster, as values."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from config import grafana
from config.capacity import Request
from config.quantities import size

_HERE = Path(__file__).parent

RUNBOOK = "docs/runbook.md"
"""The page that says what to do, as a path in this repository: nobody can click it, but it is true
wherever the repository is. A house that publishes the page gives its address instead."""

MODEL_JOB = ("reconcile_models.py", "model_house.py", "model_ledger.py", "pull_models.py")
"""Files of the model Job's program in `workloads/`."""


def chart_values() -> dict[str, Any]:
    """The Helm values of kube-prometheus-stack that are the same in every house."""
    text = (_HERE / "kube-prometheus-stack.yaml").read_text()
    # Pure Python's loader takes 40 ms, and every plan asks.
    values: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return values


def requested(values: Mapping[str, Any]) -> Request:
    """Sum every `resources.requests` in a chart's values, each counted for one container."""
    total = Request(0.0, 0)
    for key, value in values.items():
        if key == "resources" and "requests" in value:
            cpu, memory = str(value["requests"]["cpu"]), value["requests"]["memory"]
            cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
            total = total.plus(Request(cores, size(memory)))
        elif isinstance(value, Mapping):
            total = total.plus(requested(value))
    return total


def dashboards(
    disks: Iterable[str], runbook: str = RUNBOOK, backup_hours: int | None = None
) -> dict[str, str]:
    """Grafana dashboards as JSON text, by name.

    They watch the mount points `disks`, and backups every `backup_hours` if there are any, and
    send people to the page `runbook`.
    """
    return grafana.dashboards(disks, runbook, backup_hours)


def alerts(
    disks: Iterable[str],
    gpu: bool = False,
    runbook: str = RUNBOOK,
    backup_hours: int | None = None,
) -> dict[str, dict[str, Any]]:
    """PrometheusRule specs by name.

    They watch the mount points `disks`, the GPU where models run on it, and backups every
    `backup_hours` if there are any; each alert has its section in the page `runbook`.
    """
    mounted = "|".join(sorted(set(disks)))
    without = set() if gpu else {"gpu"}
    without |= {"backup"} if backup_hours is None else set()
    too_old = str(2 * 3600 * (backup_hours or 0))
    specs: dict[str, dict[str, Any]] = {
        path.stem: yaml.safe_load(
            path.read_text().replace("@disks@", mounted).replace("@too_old@", too_old)
        )
        for path in sorted((_HERE / "alerts").glob("*.yaml"))
        if path.stem not in without
    }
    for spec in specs.values():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"{runbook}#{rule['alert'].lower()}"
    return specs


def workload(*names: str) -> dict[str, str]:
    """Files of a program in `workloads/` by name, to be mounted from a ConfigMap."""
    return {name: (_HERE.parent / "workloads" / name).read_text() for name in names}
