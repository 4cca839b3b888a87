"""What the real Prometheus has of the real programs, panel by panel and rule by rule."""

import json
from collections import defaultdict

from real_house import ARTEFACTS, House, ask, filled
from waiting import eventually

# Nothing has this name until something has gone wrong.
ONLY_IN_TROUBLE = {
    "kube_job_failed",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_status_waiting_reason",
    "kube_pod_init_container_status_last_terminated_reason",
    "kube_pod_init_container_status_waiting_reason",
}


def test_every_panels_every_query_has_an_answer(house: House) -> None:
    house.chat("llama3.2:3b", "Once more.")
    queries = list(house.dashboards())
    assert queries
    # A rate needs two pushes.
    eventually(lambda: all(house.series(filled(query)) for *_, query in queries))

    page: dict[str, list[str]] = defaultdict(list)
    empty = []
    for dashboard, panel, query in queries:
        found = house.series(filled(query))
        rows = [f"| `{json.dumps(one['metric'])}` | {one['value'][1]} |" for one in found]
        table = ["| series | value |", "| --- | --- |", *rows] if rows else ["No series."]
        page[dashboard] += [f"## {panel}", f"```promql\n{query}\n```", "\n".join(table)]
        empty += [] if found else [f"{dashboard}, {panel}: {query}"]
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    blocks = [block for title in page for block in (f"# {title}", *page[title])]
    (ARTEFACTS / "dashboards.md").write_text("\n\n".join(blocks) + "\n")
    print(f"written: {ARTEFACTS / 'dashboards.md'}")

    assert empty == []


def test_every_metric_that_a_panel_or_a_rule_names_exists(house: House) -> None:
    # A query that falls back to zero would hide a name that nobody knows.
    queries = [filled(query) for *_, query in house.dashboards()]
    rules = [
        rule
        for spec in house.demo.rules().values()
        for group in spec["groups"]
        for rule in group["rules"]
    ]
    named = {name for query in queries for name in house.metrics(query)}
    named |= {name for rule in rules for name in house.metrics(rule["expr"])}
    assert "ollama_requests_total" in named

    def unknown() -> set[str]:
        return {name for name in named if not house.series(f"last_over_time({name}[10m])")}

    # What is loaded is asked for every 15 seconds, and pushed after that.
    eventually(lambda: unknown() <= ONLY_IN_TROUBLE)
    assert unknown() <= ONLY_IN_TROUBLE


def test_a_chat_is_seen_in_the_recorded_speed(house: House) -> None:
    speed = 'model:ollama_output:tokens_per_second15m{gen_ai_request_model="llama3.2:3b"}'
    ceiling = 'ollama_ceiling_tokens_per_second{gen_ai_request_model="llama3.2:3b"}'

    # A rate needs a push before and one after.
    assert eventually(lambda: house.value(ceiling))
    house.chat("llama3.2:3b", "Quick.")
    assert eventually(lambda: 0 < (house.value(speed) or 0) < (house.value(ceiling) or 0))


def test_every_rule_is_healthy(house: House) -> None:
    names = {
        rule.get("alert") or rule["record"]
        for spec in house.demo.rules().values()
        for group in spec["groups"]
        for rule in group["rules"]
    }
    assert names

    def rules() -> dict[str, tuple[str, str]]:
        _, text = ask("GET", f"{house.demo.prometheus}/api/v1/rules")
        return {
            rule["name"]: (rule["health"], rule.get("lastError", ""))
            for group in json.loads(text)["data"]["groups"]
            for rule in group["rules"]
        }

    # Unknown until it was evaluated for the first time.
    eventually(lambda: {health for health, _ in rules().values()} == {"ok"})
    assert rules() == dict.fromkeys(names, ("ok", ""))


def test_nothing_fires_and_nothing_is_about_to(house: House) -> None:
    # The disk is this machine's, and it may really be filling, or be nearly full.
    disk = {"DataDiskFilling", "DataDiskFull"}
    assert eventually(lambda: house.alerts().keys() <= disk), house.alerts()


def test_both_programs_push_under_the_names_they_were_given(house: House) -> None:
    metrics = house.series('count by (job, instance) ({job=~".+/.+"})')
    pushed = {(one["metric"]["job"], one["metric"]["instance"]) for one in metrics}

    assert pushed == {
        ("ollama-stack/ollama-gateway", "ollama"),
        ("ollama-stack/open-webui", "open-webui"),
    }
