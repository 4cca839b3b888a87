"""The dashboards can be read by somebody who did not make them, and ask what Prometheus has."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import ROOT

from components.observability.alerts import alerts
from components.observability.dashboards import dashboards

RUNBOOK = "docs/runbook.md"
MADE = dashboards(["/mnt/b", "/mnt/a"], RUNBOOK, backup_hours=24)
BOARDS = {name: json.loads(text) for name, text in MADE.items()}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
}
QUERIES = [target["expr"] for panel in PANELS.values() for target in panel["targets"]]
# What Grafana puts in for its variables.
VARIABLES = {"$server": ".*", "$model": ".*", "$__rate_interval": "2m", "$__range": "6h"}


@pytest.mark.parametrize("panel", PANELS.values(), ids=list(PANELS))
def test_every_panel_has_unit_description_thresholds_and_runbook(panel: dict[str, Any]) -> None:
    field = panel["fieldConfig"]["defaults"]
    about, _, section = panel["description"].partition("\n\nRunbook: ")
    page, _, anchor = section.partition("#")
    titles = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), re.MULTILINE)

    assert field["unit"]
    assert field["thresholds"]["steps"]
    assert about.endswith(".")
    assert anchor in {title.lower() for title in titles}
    assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}


def test_every_query_is_promql(promtool: Path, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": plain(query)} for n, query in enumerate(QUERIES)]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [str(promtool), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


@pytest.mark.parametrize(
    ("panel", "expected"),
    [
        ("Ollama answers", {"": 0.0}),
        ("Waiting", {"": 5.0}),
        ("Writing speed", {'{gen_ai_request_model="a:1b"}': 30.0}),
        # 20 of 40, and 40 of 160.
        ("Share of the ceiling", {"": 0.375}),
    ],
)
def test_a_model_of_two_servers_is_one_line(
    panel: str, expected: dict[str, float], promtool: Path, tmp_path: Path
) -> None:
    speed = "model:ollama_output:tokens_per_second15m"
    values = {"ollama": (1, 20, 40, 2), "ollama-big": (0, 40, 160, 3)}
    series = [
        {"series": f'{name}{{instance="{server}"{labels}}}', "values": f"{value}x20"}
        for server, (up, tokens, ceiling, waiting) in values.items()
        for name, labels, value in (
            ("ollama_up", "", up),
            (speed, ', gen_ai_request_model="a:1b"', tokens),
            ("ollama_ceiling_tokens_per_second", ', gen_ai_request_model="a:1b"', ceiling),
            ("ollama:requests_waiting:sum", "", waiting),
        )
    ]
    query = plain(PANELS[f"ai: {panel}"]["targets"][0]["expr"])
    samples = [{"labels": labels or "{}", "value": value} for labels, value in expected.items()]
    case = {"expr": query, "eval_time": "10m", "exp_samples": samples}
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [case]}
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"tests": [test]}))
    done = subprocess.run(
        [promtool, "test", "rules", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def plain(query: str) -> str:
    """The query as Grafana would send it."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"a variable that nobody fills in: {query}"
    return query


def test_what_a_panel_takes_from_a_rule_is_recorded() -> None:
    rules = yaml.safe_dump(alerts(["/mnt/a"], RUNBOOK, {"ollama": "evo4t"}))
    recorded = set(re.findall(r"record: (\S+)", rules))
    asked = set(re.findall(r"\b\w+:\w+:\w+\b", " ".join(QUERIES)))

    assert asked == recorded


def test_models_are_narrowed_only_where_they_can_be_chosen() -> None:
    for name, board in BOARDS.items():
        offered = [it["name"] for it in board["templating"].get("list", [])]
        is_narrowed = "$model" in json.dumps(board["panels"])
        assert offered == (["server", "model"] if is_narrowed else []), name


def test_nothing_the_kubelet_alone_knows_is_asked() -> None:
    # Of volumes that are directories of one disk it says the size of the disk.
    assert re.findall(r"\b(?:kubelet|container)_\w+", " ".join(QUERIES)) == []


def test_the_disks_of_all_nodes_are_watched() -> None:
    assert sum('mountpoint=~"/mnt/a|/mnt/b"' in query for query in QUERIES) == 2
