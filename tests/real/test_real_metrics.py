"""What the operator's own Prometheus has of the real programs, panel by panel and rule by rule."""

import json
from collections import defaultdict

import pytest
from real_lab import ARTEFACTS, Server, filled
from waiting import eventually

pytestmark = pytest.mark.faults

# Nothing has this name until something has gone wrong, or where there is an NVMe disk.
ONLY_IN_TROUBLE = {
    "ollama_keys_dropped_total",
    "ollama_requests_limited_total",
    "node_hwmon_temp_celsius",
    "node_hwmon_temp_max_celsius",
    "kube_job_failed",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_init_container_status_last_terminated_reason",
    "kube_pod_init_container_status_waiting_reason",
}
PATIENCE = 200.0
"""Seconds: what is scraped every 30 seconds has a rate after two of them, and is recorded later."""


def test_every_target_is_up(metrics: Server) -> None:
    assert eventually(lambda: metrics.series("up") and not metrics.series("up == 0"), PATIENCE)
    wanted = {
        ("ollama-stack/ollama-gateway", "ollama"),
        ("ollama-stack/open-webui", "open-webui"),
    }

    def pushed() -> set[tuple[str, str]]:
        series = metrics.series('count by (job, instance) ({job=~".+/.+"})')
        return {(item["metric"]["job"], item["metric"]["instance"]) for item in series}

    # A push that Prometheus was not ready for is repeated later and later, up to a minute apart.
    eventually(lambda: pushed() >= wanted, PATIENCE)
    assert pushed() == wanted


def test_every_panels_every_query_has_an_answer(metrics: Server) -> None:
    metrics.chat("llama3.2:3b", "Once more.", metrics.token())
    queries = list(metrics.dashboards())
    assert queries
    eventually(lambda: all(metrics.series(filled(query)) for *_, query in queries), PATIENCE)

    page: dict[str, list[str]] = defaultdict(list)
    empty = []
    for dashboard, panel, query in queries:
        answer = metrics.series(filled(query))
        rows = [f"| `{json.dumps(series['metric'])}` | {series['value'][1]} |" for series in answer]
        table = ["| series | value |", "| --- | --- |", *rows] if rows else ["No series."]
        page[dashboard] += [f"## {panel}", f"```promql\n{query}\n```", "\n".join(table)]
        empty += [] if answer else [f"{dashboard}, {panel}: {query}"]
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    blocks = [block for title in page for block in (f"# {title}", *page[title])]
    (ARTEFACTS / "dashboards.md").write_text("\n\n".join(blocks) + "\n")
    print(f"written: {ARTEFACTS / 'dashboards.md'}")

    assert empty == []


def test_a_chat_is_seen_in_the_recorded_speed(metrics: Server) -> None:
    speed = 'model:ollama_output:tokens_per_second15m{gen_ai_request_model="llama3.2:3b"}'
    ceiling = 'ollama_ceiling_tokens_per_second{gen_ai_request_model="llama3.2:3b"}'

    metrics.chat("llama3.2:3b", "Quick.", metrics.token())
    assert eventually(lambda: metrics.value(speed) and metrics.value(ceiling), PATIENCE)
    assert 0 < (metrics.value(speed) or 0) < (metrics.value(ceiling) or 0)


def test_every_rule_is_healthy_and_what_it_names_exists(metrics: Server) -> None:
    ours = {
        rule.get("alert") or rule["record"]: rule["expr"]
        for item in metrics.objects("monitoring.coreos.com/v1", "PrometheusRule")
        if item["metadata"]["labels"].get("app.kubernetes.io/managed-by") != "Helm"
        for group in item["spec"]["groups"]
        for rule in group["rules"]
    }
    assert ours

    def unhealthy() -> dict[str, str]:
        # Unknown until it was evaluated for the first time.
        health = {
            rule["name"]: rule.get("lastError") or rule["health"]
            for group in metrics.query("rules")["groups"]
            for rule in group["rules"]
        }
        missing = dict.fromkeys(ours.keys() - health.keys(), "missing")
        return missing | {name: state for name, state in health.items() if state != "ok"}

    assert eventually(lambda: not unhealthy(), PATIENCE), unhealthy()
    # A query that falls back to zero would hide a name that nobody knows.
    named = {name for query in ours.values() for name in metrics.names(query)}
    named |= {name for *_, query in metrics.dashboards() for name in metrics.names(filled(query))}
    assert "ollama_requests_total" in named

    def unknown() -> set[str]:
        return {name for name in named if not metrics.series(f"last_over_time({name}[10m])")}

    assert eventually(lambda: unknown() <= ONLY_IN_TROUBLE, PATIENCE), unknown() - ONLY_IN_TROUBLE


def test_nothing_fires_but_the_watchdog(metrics: Server) -> None:
    # Disk, processors and clock are this machine's, which may really be busy, full or without NTP.
    machine = {
        "DataDiskFilling",
        "DataDiskFull",
        "CPUThrottlingHigh",
        "NodeSystemSaturation",
        "NodeClockNotSynchronising",
    }
    firing = {name for name, state in metrics.alerts().items() if state == "firing"}
    # The inhibitor fires for alerts that are for information only.
    assert firing - machine - {"InfoInhibitor"} == {"Watchdog"}
