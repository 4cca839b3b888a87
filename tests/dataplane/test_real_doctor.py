"""The doctor's look at the running house: the real page, models and Prometheus."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from harness import deployed, read, stack_config
from real_house import House, ask, eventually

from ops import doctor, doctor_house, doctor_laptop
from ops.cluster import UnreadableError
from ops.doctor_checks import run
from ops.stacks import Stack

MODEL = "llama3.2:3b"
# Nothing listens there.
SILENT = "http://127.0.0.1:9"


def test_the_page_answers(house: House) -> None:
    health = doctor_house.PAGE_HEALTH

    assert doctor_house.answers({house.page: health}, away="").level == "ok"
    assert doctor_house.answers({house.page: health, SILENT: health}, away="").level == "fail"


def test_the_websocket_opens_for_every_name_of_the_page(house: House) -> None:
    origins = [house.page, "http://evo4t:8080"]

    assert doctor_house.websocket([SILENT, house.page], origins).level == "ok"
    with pytest.raises(UnreadableError):
        doctor_house.websocket([SILENT], origins)


@pytest.mark.parametrize("stranger", ["http://evo4t.lan:8080", "https://evo4t:8080", "null"])
def test_a_name_that_the_page_does_not_know_is_named(house: House, stranger: str) -> None:
    found = doctor_house.websocket([house.page], [house.page, stranger])

    assert found.level == "fail"
    assert found.text == f"{stranger} is refused: 403"


def test_a_model_answers_the_admin(house: House) -> None:
    who = house.admin
    found = doctor_house.completion([house.page], who["email"], who["password"], MODEL)

    assert found.level == "ok", found
    assert int(found.text.split()[-2]) > 1


def test_a_model_that_is_not_there_does_not_answer(house: House) -> None:
    who = house.admin
    found = doctor_house.completion([house.page], who["email"], who["password"], "missing:1b")

    assert found.level == "fail"
    assert found.text.startswith("missing:1b does not answer: ")


def test_another_password_is_no_fault_of_the_house(house: House) -> None:
    found = doctor_house.completion([house.page], house.admin["email"], "another", MODEL)

    assert found.level == "warn"


def test_metrics_arrive(house: House) -> None:
    def asked(path: str, query: str) -> Any:
        status, text = ask("GET", f"{house.demo.prometheus}{path}?query={quote(query)}")
        assert status == 200, text
        return json.loads(text)

    def of_others(path: str, query: str) -> Any:
        return asked(path, query.replace("ollama-stack/.+", "node-exporter"))

    assert eventually(lambda: doctor_house.metrics(asked).level == "ok")
    assert doctor_house.metrics(of_others).level == "fail"


def test_the_stacks_own_password_and_pages_are_what_is_tried(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_laptop, "at_home", lambda *_: True)
    cli = house.demo.engine.cli
    program = deployed("sandbox")
    program.outputs["open_webui_urls"] = [SILENT, house.page]
    program.outputs["open_webui_origins"] = [house.page]
    looked_at = doctor.House(
        stack=Stack(
            name="sandbox", cli=cli, kubeconfig=house.demo.cluster.kubeconfig, simulated=True
        ),
        stack_file=house.demo.folder / "project" / "Pulumi.sandbox.yaml",
        settings=read(stack_config("sandbox")),
        program=program,
        exported=cli("stack", "export"),
    )
    assert looked_at.state
    found = {check.name: result for check, result in run(doctor.after(looked_at))}

    assert found["websocket"].level == "ok"
    assert found["completion"].level == "ok", found["completion"]
    # Grafana is not run here, and the chart is not rendered that makes the Service of Prometheus.
    assert found["page"].level == "fail"
    assert found["metrics"].text == "there is no Prometheus"
