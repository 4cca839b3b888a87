"""Every alert fires when it should, keeps quiet when it should, and tells what to do."""

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
SERVERS = {"ollama": "evo4t", "ollama-big": "big"}
RULES = alerts(
    ["/mnt/data"],
    RUNBOOK,
    SERVERS,
    gpu_servers=["ollama"],
    backup_hours=24,
    backup_path="/mnt/backup/homelab",
)
TESTS = {path.stem: path for path in sorted((ROOT / "tests/promtool").glob("*.yaml"))}
WEATHER = TESTS.pop("weather")
ALERTS = {
    rule["alert"]: rule
    for spec in RULES.values()
    for group in spec["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def cases(fires: bool) -> set[str]:
    """The alerts that a test shows firing, or quiet."""
    return {
        case["alertname"]
        for path in TESTS.values()
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if bool(case["exp_alerts"]) is fires
    }


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as files, and beside them the tests, which name them by relative path."""
    directory = tmp_path_factory.mktemp("promtool")
    (directory / "rules").mkdir()
    for name, spec in RULES.items():
        (directory / "rules" / f"{name}.yaml").write_text(yaml.safe_dump(without_advice(spec)))
        (directory / f"{name}.full.yaml").write_text(yaml.safe_dump(spec))
    for name, path in TESTS.items():
        (directory / f"{name}.yaml").write_text(path.read_text())
    # Not safe_load: 0x60 is no number here.
    weather = yaml.load(WEATHER.read_text(), yaml.BaseLoader)
    for test in weather["tests"]:
        cases = test["alert_rule_test"]
        # In any weather something is measured.
        test["input_series"] += [{"series": 'up{job="prometheus"}', "values": "1x600"}]
        named = {(case["eval_time"], case["alertname"]) for case in cases}
        cases += [
            {"alertname": alert, "eval_time": time, "exp_alerts": []}
            for time in {case["eval_time"] for case in cases}
            for alert in ALERTS
            if (time, alert) not in named
        ]
    (directory / "weather.yaml").write_text(yaml.safe_dump(weather))
    return directory


def without_advice(spec: dict[str, Any]) -> dict[str, Any]:
    """The rules with no annotation but the summary: promtool wants each one repeated in a case."""
    copy: dict[str, Any] = yaml.safe_load(yaml.safe_dump(spec))
    for rule in (rule for group in copy["groups"] for rule in group["rules"]):
        if "alert" in rule:
            rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    return copy


@pytest.mark.parametrize("name", RULES)
def test_every_rule_file_passes_the_check(promtool: Path, folder: Path, name: str) -> None:
    done = run(
        promtool, "check", "rules", "--lint=all", "--lint-fatal", folder / f"{name}.full.yaml"
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [*RULES, "weather"])
def test_every_alert_fires_and_keeps_quiet_as_its_cases_say(
    promtool: Path, folder: Path, name: str
) -> None:
    done = run(promtool, "test", "rules", folder / f"{name}.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_quiet() -> None:
    assert set(TESTS) == set(RULES)
    assert cases(fires=True) == set(ALERTS)
    assert cases(fires=False) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=list(ALERTS))
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}


def test_every_runbook_url_leads_to_a_section_and_every_section_has_its_alert() -> None:
    sections: dict[str, set[str]] = {}
    for alert in ALERTS.values():
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        sections.setdefault(page, set()).add(anchor)
    headings = {page: anchors((ROOT / page).read_text()) for page in sections}

    assert headings == sections


def anchors(page: str) -> set[str]:
    """The anchors that a page's sections get: lower case, blanks as hyphens."""
    titles = re.findall(r"^## (.+)$", page, re.MULTILINE)
    return {title.lower().replace(" ", "-") for title in titles}


def test_another_address_of_the_runbook_is_the_one_in_the_alerts() -> None:
    spec = alerts(["/mnt/data"], "https://example.org/runbook.html", SERVERS)["webui"]
    down = spec["groups"][0]["rules"][0]

    assert down["annotations"]["runbook_url"] == "https://example.org/runbook.html#openwebuidown"


def test_a_gpu_and_backups_are_watched_only_where_there_are_some() -> None:
    assert set(RULES) - set(alerts(["/mnt/data"], RUNBOOK, SERVERS)) == {"gpu", "backup"}


def test_an_alert_names_the_server_and_its_node(promtool: Path, tmp_path: Path) -> None:
    down = ALERTS["OllamaDown"]
    group = {"name": "down", "rules": [down]}
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    expected = [
        {
            "exp_labels": {"severity": "critical", "instance": server},
            "exp_annotations": {
                "summary": f"Ollama of model server {server} does not answer",
                "description": down["annotations"]["description"].partition(" Server: ")[0]
                + f" Server: {server} on {node}.",
                "runbook_url": down["annotations"]["runbook_url"],
            },
        }
        for server, node in SERVERS.items()
    ]
    series = [{"series": f'ollama_up{{instance="{it}"}}', "values": "0x20"} for it in SERVERS]
    case = {"alertname": "OllamaDown", "eval_time": "15m", "exp_alerts": expected}
    test = {"interval": "1m", "input_series": series, "alert_rule_test": [case]}
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump({"rule_files": ["rule.yaml"], "tests": [test]})
    )
    done = run(promtool, "test", "rules", tmp_path / "test.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


def promql_results(promtool: Path, folder: Path, series: list[str], cases: dict[str, int]) -> None:
    """Assert how many results each PromQL expression has, with these series at 1."""
    test = {
        "interval": "1m",
        "input_series": [{"series": it, "values": "1x5"} for it in series],
        "promql_expr_test": [
            {
                "expr": f"count({expr}) or vector(0)",
                "eval_time": "1m",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for expr, count in cases.items()
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    done = run(promtool, "test", "rules", folder / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("disk", "other"),
    [
        ("/mnt/a.b", "/mnt/axb"),
        ("/mnt/a+b (c)", "/mnt/aab c"),
        ('/mnt/"a" $b', '/mnt/"a" '),
        ("/mnt/a\\b", "/mnt/ab"),
        ("/mnt/ä-b", "/mnt/a-b"),
    ],
)
def test_a_mount_point_with_any_characters_is_matched_literally(
    promtool: Path, tmp_path: Path, disk: str, other: str
) -> None:
    spec = alerts([disk], RUNBOOK, SERVERS)["disk"]
    rules = {rule.get("alert"): rule for group in spec["groups"] for rule in group["rules"]}
    missing = rules["DataDiskNotMounted"]
    panel = json.loads(dashboards([disk], RUNBOOK)["server"])
    free = next(it for it in panel["panels"] if it["title"] == "Data disk, free")["targets"][0]

    def mounted(path: str) -> list[str]:
        labels = f'instance="a", mountpoint={json.dumps(path, ensure_ascii=False)}'
        names = ("node_filesystem_size_bytes", "node_filesystem_avail_bytes")
        return ['up{job="node-exporter", instance="a"}', *(f"{it}{{{labels}}}" for it in names)]

    promql_results(promtool, tmp_path, mounted(disk), {missing["expr"]: 0, free["expr"]: 1})
    promql_results(promtool, tmp_path, mounted(other), {missing["expr"]: 1, free["expr"]: 0})
    assert f"none of {disk} is mounted" in missing["annotations"]["description"]


def test_nothing_the_kubelet_or_the_control_plane_alone_knows_is_asked_but_volumes() -> None:
    text = yaml.safe_dump(RULES)

    assert (
        re.findall(
            r"\b(?:kubelet(?!_volume_stats)|container|apiserver|etcd|scheduler|coredns)_\w+", text
        )
        == []
    )
