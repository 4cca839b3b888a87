"""Status of a stack from Prometheus: models, their speed, disks, backups, alerts.

Each function raises UnreadableError if Prometheus does not answer, or lacks the metrics.
"""

import time
from datetime import UTC, datetime
from typing import Any

from components.observability import reader
from config import Settings
from config.quantities import gib
from ops.cluster import Cluster, UnreadableError
from ops.status_cluster import Line, span

PROMETHEUS = f"/api/v1/namespaces/observability/services/{reader.PROMETHEUS}/proxy/api/v1/"
"""Path of Prometheus' API through the API server's proxy."""
LAST_BACKUP = "max(max_over_time(homelab_backup_last_success_timestamp_seconds[60d]))"
MODELS = (
    'max by (__name__, instance, gen_ai_request_model) ({__name__=~"ollama_up'
    '|ollama_model_loaded_(gpu_)?size_bytes|ollama_model_expires_in_seconds"})'
)
RATE = (
    "sum by (instance, gen_ai_request_model)"
    " (rate(gen_ai_server_time_per_output_token_seconds_{}[1h]))"
)
SPEEDS = f"{RATE.format('count')} / ({RATE.format('sum')} > 0)"
DISKS = 'max by (__name__, instance, mountpoint) ({__name__=~"node_filesystem_(size|avail)_bytes"})'
STAYS = 7 * 86400 - 60
"""Seconds; the gateway reports a week for a model that stays loaded for longer, or for ever."""
ALWAYS = ("Watchdog", "InfoInhibitor")
"""Alerts of the chart that always fire."""


def models(cluster: Cluster, settings: Settings) -> list[Line]:
    """Return the loaded models of each server: on GPU or CPU, and until when."""
    loaded, lines = _query(cluster, MODELS, "instance", "gen_ai_request_model"), list[Line]()
    for server in settings.instances.values():
        up = loaded.pop((server, ""), {})
        problem = "Ollama does not answer its gateway"
        if not up:
            problem = "Prometheus has no metrics of its gateway from the last 5 minutes"
        if not up.get("ollama_up"):
            lines.append(Line(server, "", {"server": server, "problem": problem}))
    for (server, model), values in sorted(loaded.items()):
        size, gpu, left = (
            values.get(f"ollama_model_{name}", 0)
            for name in ("loaded_size_bytes", "loaded_gpu_size_bytes", "expires_in_seconds")
        )
        share, until = gpu / (size or 1), _iso(time.time() + left) if left < STAYS else None
        device = {0.0: "CPU", 1.0: "GPU"}.get(share, f"{share:.0%} GPU")
        text = f"{gib(size)} on {device}, " + (f"{span(until)} left" if until else "stays loaded")
        fact = {"server": server, "model": model, "bytes": size, "on_gpu": share, "until": until}
        lines.append(Line(_label(settings, server, model), text, fact))
    return lines


def tokens_per_second(cluster: Cluster, settings: Settings) -> list[Line]:
    """Return each model's mean output speed in the last hour, on each server."""
    lines = list[Line]()
    results = _query(cluster, SPEEDS, "instance", "gen_ai_request_model")
    for (server, model), values in sorted(results.items()):
        fact = {"server": server, "model": model, "tokens_per_second": values[""]}
        text = f"{values['']:.1f} in the last hour"
        lines.append(Line(_label(settings, server, model), text, fact))
    return lines


def _label(settings: Settings, server: str, model: str) -> str:
    """Return the model's name, after that of its server if there are several."""
    return f"{server}: {model}" if len(settings.instances) > 1 else model


def disks(cluster: Cluster, settings: Settings) -> list[Line]:
    """Return the disks of system, data and backups, and data disks that are not mounted."""
    backup, lines = settings.webui.backup, list[Line]()
    missing = {node.disk.path for node in settings.nodes.values()}
    # The backups' volume is a directory on its disk.
    paths = ["/", *missing, *([backup.volume.path] if backup else [])]
    if not (results := _query(cluster, DISKS, "instance", "mountpoint")):
        source = "node-exporter"
        raise UnreadableError(f"Prometheus has no metrics of {source} from the last 5 minutes")
    for (instance, mount), values in sorted(results.items()):
        if any(path == mount or path.startswith(f"{mount}/") for path in paths):
            size = values["node_filesystem_size_bytes"]
            used = size - values["node_filesystem_avail_bytes"]
            fact = {"instance": instance, "mount": mount, "used": used, "bytes": size}
            lines.append(Line(f"{instance} {mount}", f"{gib(used)} of {gib(size)} used", fact))
            missing.discard(mount)
    return lines + [
        Line(mount, "", {"mount": mount, "problem": "is not mounted on any node"})
        for mount in sorted(missing)
    ]


def last_backup(cluster: Cluster, settings: Settings) -> list[Line]:
    """Return the last successful backup of the chats."""
    if not (backup := settings.webui.backup):
        return [Line("none: webui.backup is not set", "", {"at": None, "hours": None})]
    results, hours = _query(cluster, LAST_BACKUP), backup.hours
    time = _iso(results[()][""]) if results else None
    name = f"{span(time)} ago" if time else "none in 60 days"
    return [Line(name, f"every {hours} h", {"at": time, "hours": hours})]


def alerts(cluster: Cluster, _: Settings) -> list[Line]:
    """Return the firing alerts, except those that always fire."""
    lines, alerts = list[Line](), prometheus(cluster, "alerts")["alerts"]
    for alert in sorted(alerts, key=lambda alert: str(alert["activeAt"])):
        annotations, labels = alert["annotations"], alert["labels"]
        if alert["state"] == "firing" and labels["alertname"] not in ALWAYS:
            text = annotations.get("summary") or annotations.get("description") or "fires"
            fact = {"alert": labels["alertname"], "severity": labels.get("severity", "")}
            fact |= {"problem": text, "since": alert["activeAt"]}
            lines.append(Line(fact["alert"], fact["severity"], fact))
    return lines


def prometheus(cluster: Cluster, endpoint: str, **query: str) -> Any:
    """Return what Prometheus answers at an endpoint of its API; raises UnreadableError."""
    path = PROMETHEUS + endpoint
    try:
        return cluster.read(path, **query)["data"]
    except UnreadableError as error:
        raise UnreadableError(f"Prometheus: {str(error).removeprefix(f'{path}: ')}") from error


def _query(cluster: Cluster, promql: str, *by: str) -> dict[tuple[str, ...], dict[str, float]]:
    """Return values by the labels `by`, and by metric; raises UnreadableError."""
    results = dict[tuple[str, ...], dict[str, float]]()
    for series in prometheus(cluster, "query", query=promql)["result"]:
        labels = series["metric"]
        values = results.setdefault(tuple(labels.get(key, "") for key in by), {})
        values[labels.get("__name__", "")] = float(series["value"][1])
    return results


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
