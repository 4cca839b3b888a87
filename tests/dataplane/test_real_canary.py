"""The canary's look at the real page, gateway and Ollama; no time is judged."""

import json

import pytest
from harness import deployed, read, stack_config
from real_house import House, ask

from ops import canary, doctor
from ops.canary import Measured
from ops.canary_page import BadAnswerError, Page
from ops.cluster import UnreadableError
from ops.stacks import Stack

PROMPT = "Say hello."
SETTINGS = read(stack_config("sandbox"))
MODEL = SETTINGS.model_set[0]


@pytest.fixture(scope="module")
def looked_at(house: House) -> doctor.House:
    """The house as the canary finds it."""
    cli = house.demo.engine.cli
    return doctor.House(
        stack=Stack(name="sandbox", cli=cli, kubeconfig=None, simulated=True),
        stack_file=house.demo.folder / "project" / "Pulumi.sandbox.yaml",
        settings=SETTINGS,
        program=deployed("sandbox"),
        exported=cli("stack", "export"),
    )


@pytest.fixture(scope="module")
def page(house: House, looked_at: doctor.House) -> Page:
    """The page, the admin signed in."""
    return Page([house.page], house.admin["email"], looked_at.password())


@pytest.fixture(scope="module")
def expect(page: Page) -> str:
    """How the random model begins its answer, always the same at temperature 0."""
    answer, speed = page.generate(MODEL, PROMPT)
    assert answer
    assert speed > 0
    return answer[:8]


@pytest.fixture(scope="module")
def seen(page: Page, looked_at: doctor.House, expect: str) -> Measured:
    """What the canary sees."""
    return canary.measure(page, looked_at, PROMPT, expect)


def test_the_canary_sees_what_the_server_tells(
    house: House, looked_at: doctor.House, seen: Measured
) -> None:
    _, tags = ask("GET", f"{house.gateway}/api/tags")
    _, version = ask("GET", f"{house.gateway}/api/version")

    assert seen.digest in [one["digest"] for one in json.loads(tags)["models"]]
    assert seen.ollama == json.loads(version)["version"]
    assert seen.device == canary.expected_device(looked_at.program) == "cpu"
    assert seen.tokens_per_second > 0


def test_it_is_well_beside_itself_and_red_on_another_device(seen: Measured) -> None:
    assert {row.level for row in canary.compare(seen, seen, "cpu", 10)} == {"ok"}
    assert "red" in {row.level for row in canary.compare(seen, seen, "gpu", 10)}


def test_random_weights_cannot_count(page: Page, looked_at: doctor.House) -> None:
    with pytest.raises(BadAnswerError, match="must have '1, 2, 3"):
        canary.measure(page, looked_at, canary.PROMPT, canary.EXPECT)


def test_another_password_gives_no_verdict(house: House) -> None:
    with pytest.raises(UnreadableError, match="cannot sign in"):
        Page([house.page], house.admin["email"], "another")
