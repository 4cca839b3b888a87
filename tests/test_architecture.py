"""The architecture page shows what the program registers, and nothing else."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from harness import Deployment, deploy_program, deployed, stack_config

from ops import architecture
from ops.architecture import PAGE, draw, page
from ops.paths import Network, Step

HOME = deployed(architecture.STACK)
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
# Pods of the policy's own namespace.
NEIGHBOURS: dict[str, Any] = {"from": [{"podSelector": {}}]}
PUSH = ("gateway", "prometheus")
ASK = ("open-webui", "ollama-service")


def changed(key: str, **fields: Any) -> Deployment:
    """The house with the spec of one object changed, or without the object."""
    lab = copy.deepcopy(HOME)
    if fields:
        lab[key].inputs["spec"] |= fields
    else:
        del lab.resources[key]
    return lab


def steps(lab: Deployment) -> dict[tuple[str, str], Step]:
    """Each step of each path by the words at its ends."""
    found = [step for path in Network(lab).paths() for step in path.steps]
    return {(step.source.text, step.target.text): step for step in found}


def test_the_page_is_what_make_docs_would_write() -> None:
    assert page(PAGE.read_text(), HOME) == PAGE.read_text(), "stale: run make docs"


def test_two_runs_draw_the_same_in_whatever_order_they_register() -> None:
    again = deploy_program(architecture.STACK)
    again.resources = dict(reversed(again.resources.items()))

    assert draw(again) == draw(HOME)


def test_every_object_is_in_the_box_of_its_parent() -> None:
    text = "\n".join(draw(HOME)["resources"])
    boxes = dict(re.findall(r'subgraph \w+\["\w+ ([\w-]+)"\]\n((?:    .*\n)+)  end', text))
    missing = []
    for key, made in HOME.resources.items():
        if made.type.startswith("kubernetes:"):
            name = (made.inputs.get("metadata") or made.inputs)["name"]
            words, kind = re.sub(r"-[0-9a-f]{8}$", "", name), made.type.rpartition(":")[2]
            row = rf"[>/]{re.escape(words)}[ <\"]"
            box = [
                line for line in boxes[made.parent].splitlines() if re.search(rf"\b{kind}\b", line)
            ]
            if not re.search(row, "".join(box)):
                missing.append(key)

    assert len(boxes) == sum(made.type.startswith("homelab:") for made in HOME.resources.values())
    assert missing == []


@pytest.mark.parametrize("name", ["resources", "requests", "metrics"])
def test_a_diagram_can_be_taken_in(name: str) -> None:
    lines = draw(HOME)[name]
    nodes = {line.split("[", 1)[0] for line in lines if re.match(r" +\w+[\[({]", line)}

    assert 5 <= len(nodes) <= 28


def test_addresses_directories_and_nodes_are_shown() -> None:
    text = "\n".join(draw(deployed("example-two-nodes"))["resources"])

    for told in (
        "ollama-stack/open-webui-service-local 192.168.1.101:8080",
        "observability/grafana-external 192.168.1.102:3000",
        "ollama-stack-models /mnt/models/ollama on large",
        "ollama-stack-open-webui /mnt/data/open-webui on small",
    ):
        assert told in text


def test_a_request_goes_from_an_address_to_the_model_server() -> None:
    told = {ends: step.told for ends, step in steps(HOME).items() if step.open}
    lan, tailnet = "192.168.1.101:8080", "100.102.114.95:8080"
    callers = ("from 192.168.1.0/24", "from 100.64.0.0/10", "from 192.168.1.100/32")

    assert told[lan, "open-webui-service-local"] == callers
    assert told["open-webui-service-local", "open-webui"] == ("port http",)
    assert told[tailnet, "open-webui"] == ("host port", *callers)
    by = "by ollama-clients, ollama"
    assert told[ASK] == ("OLLAMA_BASE_URL", "RAG_OLLAMA_BASE_URL", by)
    assert told["reconcile-models", "ollama-service"] == ("OLLAMA_URL", by)
    assert told["ollama-service", "gateway"] == ("port 11434",)
    assert told["gateway", "ollama"] == ("GATEWAY_UPSTREAM", "127.0.0.1:11435")
    assert told["ollama", "0.0.0.0/0 less private ranges"] == ("port 443", "by ollama")


def test_metrics_go_from_who_measures_to_who_looks() -> None:
    told = {ends: step.told for ends, step in steps(HOME).items() if step.open}
    by = "by monitoring-push-0, monitoring-prometheus"

    assert told[PUSH] == ("GATEWAY_OTLP_URL", "port 9090", by)
    assert told["open-webui", "prometheus"][1:] == ("port 9090", by)
    assert told["192.168.1.102:3000", "grafana-external"] == ("from anywhere",)
    drawn = "\n".join(draw(HOME)["metrics"])
    assert "homelab-ollama" in drawn
    assert "dashboard-house" in drawn
    assert "/mnt/evo4t/prometheus" in drawn


@pytest.mark.parametrize(
    ("lab", "ends"),
    [
        (changed(f"{POLICY}::ollama-clients-policy"), ASK),
        (changed(f"{POLICY}::ollama-policy", ingress=[]), ASK),
        (changed(f"{POLICY}::monitoring-push-0-policy"), PUSH),
        (changed(f"{POLICY}::monitoring-prometheus-policy", ingress=[NEIGHBOURS]), PUSH),
    ],
)
def test_a_way_that_a_policy_closes_is_crossed_out(lab: Deployment, ends: Any) -> None:
    assert steps(HOME)[ends].open
    assert not steps(lab)[ends].open
    assert "closed" in "".join(line for lines in draw(lab).values() for line in lines)


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"podSelector": {}}], "ports": [{"port": 11435}]},
        {"from": [{"podSelector": {"matchLabels": {"another": "label"}}}]},
        {"from": [{"namespaceSelector": {"matchLabels": {"another": "label"}}}]},
        {"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]},
    ],
)
def test_a_rule_for_others_opens_nothing(rule: dict[str, Any]) -> None:
    assert not steps(changed(f"{POLICY}::ollama-policy", ingress=[rule]))[ASK].open


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"ports": [{"port": 11434}]},
        {"from": [{"podSelector": {}}]},
        {"from": [{"namespaceSelector": {}}]},
        {"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}, {"podSelector": {}}]},
    ],
)
def test_a_rule_for_all_opens_it(rule: dict[str, Any]) -> None:
    assert steps(changed(f"{POLICY}::ollama-policy", ingress=[rule]))[ASK].open


def test_a_service_that_finds_no_pod_answers_nobody() -> None:
    selector = {"app.kubernetes.io/name": "gone"}
    found = steps(changed("kubernetes:core/v1:Service::ollama-service", selector=selector))

    assert ASK not in found
    assert not found["open-webui", "ollama-service.ollama-stack:11434"].open


def test_nobody_is_let_in_where_no_address_range_is() -> None:
    found = steps(changed(f"{POLICY}::open-webui-policy", ingress=[]))

    assert found["192.168.1.101:8080", "open-webui-service-local"].told == ("from nowhere",)


def test_an_address_that_is_taken_away_is_drawn_no_more() -> None:
    config = stack_config("home")
    del config["webui"]["tailnet_address"]
    lab = deploy_program("home", config)

    assert "100.102.114.95:8080" in "\n".join(draw(HOME)["requests"])
    assert "100.102.114.95" not in "\n".join(draw(lab)["requests"])
    assert page(PAGE.read_text(), lab) != PAGE.read_text()


def test_a_page_without_its_markers_is_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "architecture.md"
    broken.write_text(PAGE.read_text().replace("<!-- diagram: metrics -->", ""))
    before = broken.read_text()
    monkeypatch.setattr(architecture, "PAGE", broken)

    assert architecture.main() == 1
    assert capsys.readouterr().err == (
        "error: architecture.md: has markers for resources, requests;"
        " it must have one for metrics, requests, resources\n"
    )
    assert broken.read_text() == before
