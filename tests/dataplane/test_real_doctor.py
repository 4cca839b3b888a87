"""The doctor's look at the running server: the real page, models and Prometheus."""

import argparse
import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from doctor_lab import problems
from harness import read, stack_config
from real_house import House, ask
from waiting import eventually

from ops import doctor, doctor_server, stacks
from ops.doctor_server import Warn
from ops.stacks import Stack

MODEL = "llama3.2:3b"


@pytest.fixture
def stack(house: House) -> Stack:
    """The stack as the doctor finds it."""
    kubeconfig = house.demo.cluster.kubeconfig
    return Stack(name="sandbox", cli=house.demo.engine.cli, kubeconfig=kubeconfig, simulated=True)


def test_the_websocket_opens_for_every_name_of_the_page_and_no_other(house: House) -> None:
    strangers = ["http://evo4t.lan:8080", "https://evo4t:8080", "null"]
    outputs = {"open_webui_origins": [house.page, *strangers, "http://evo4t:8080"]}

    found = asyncio.run(problems(doctor_server.origins, {"page": house.page, "outputs": outputs}))
    assert found == [f"{stranger} is refused: 403" for stranger in strangers]


@pytest.mark.parametrize(
    ("model", "email", "kind", "text"),
    [
        # The models here have random weights: they answer in pieces, and cannot count.
        (MODEL, "", Warn, f"{MODEL}: got '.+' after '1, .*, 8,', want 9"),
        ("missing:1b", "", str, r"missing:1b: got 400 \[\{'detail': .+"),
        (MODEL, "nobody@example.org", Warn, "sign-in of nobody@example.org: got 400, want 200: .+"),
    ],
)
def test_a_model_answers_the_admin(
    house: House, stack: Stack, model: str, email: str, kind: type, text: str
) -> None:
    outputs = {"open_webui_email": email or house.admin["email"], "models": [model]}
    settings = read(stack_config("sandbox"))
    server = {"settings": settings, "stack": stack, "page": house.page, "outputs": outputs}

    (found,) = asyncio.run(problems(doctor_server.answer, server))
    assert type(found) is kind
    assert re.fullmatch(text, found)


@pytest.mark.parametrize(("jobs", "count"), [("ollama-stack/.+", 0), ("node-exporter", 2)])
def test_metrics_arrive(house: House, jobs: str, count: int) -> None:
    def asked(_: str, query: str) -> Any:
        promql = quote(query.replace("ollama-stack/.+", jobs))
        status, text = ask("GET", f"{house.demo.prometheus}/api/v1/query?query={promql}")
        assert status == 200, text
        return json.loads(text)

    server = {"cluster": SimpleNamespace(ask=asked)}
    assert eventually(lambda: len(asyncio.run(problems(doctor_server.metrics, server))) == count)


def test_the_stack_that_is_up_is_checked_as_a_whole(
    house: House, stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def here(server: doctor_server.Server) -> Any:
        """The page is not at the addresses of its Service here."""
        server.page, server.outputs["open_webui_origins"] = house.page, [house.page]
        server.has.add("page")
        for problem in tuple[str, ...]():
            yield problem

    checks = [check for check in doctor_server.CHECKS if check.run is not doctor_server.page]
    monkeypatch.setattr(doctor_server, "CHECKS", [doctor_server.Check(here, "up", ""), *checks])
    monkeypatch.setattr(stacks, "find", lambda _: stack)

    assert doctor.run(argparse.Namespace(stack="sandbox")) == 1
    lines = {line.split()[1]: line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert [lines[name] for name in ("origins", "answer", "names")] == ["ok", "warn", "ok"]
    # Nothing answers at the address of Prometheus' simulated pod, and there are no backups.
    assert [lines[name] for name in ("metrics", "backups")] == ["fail", "warn"]
