"""What the real operator makes of Alertmanager's configuration, and that Alertmanager takes it."""

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from live_stack import LiveStack
from test_notify import WAYS, running
from waiting import eventually

from components.observability.notify import configuration

GENERATED = "alertmanager-kube-prom-stack-generated"


@pytest.fixture(autouse=True, scope="module")
def as_in_the_project(live_stack: LiveStack) -> Iterator[None]:
    """Leave the stack as it was found."""
    yield
    live_stack.reset()
    live_stack.up()


def generated(live_stack: LiveStack) -> Any:
    """What the operator gives to Alertmanager."""
    packed = live_stack.core.read_namespaced_secret(GENERATED, "observability").data
    text = gzip.decompress(base64.b64decode(packed["alertmanager.yaml.gz"]))
    return yaml.safe_load(text)


def encrypted(live_stack: LiveStack, secret: str) -> Any:
    """Give what `pulumi config set --secret` writes into the stack file."""
    engine = live_stack.engine
    done = engine.cli("config", "set", "--secret", "homelab:notifySecret", secret)
    assert done.returncode == 0, done.stderr
    text = (engine.work / "Pulumi.sandbox.yaml").read_text()
    return yaml.safe_load(text)["config"]["homelab:notifySecret"]


@pytest.mark.parametrize(("notify", "secret"), WAYS)
def test_the_operator_gives_on_what_was_configured(
    live_stack: LiveStack, alertmanager: Path, tmp_path: Path, notify: dict[str, Any], secret: str
) -> None:
    def change(keys: dict[str, Any]) -> None:
        keys["homelab:observability"]["notify"] = notify
        keys["homelab:notifySecret"] = encrypted(live_stack, secret)

    live_stack.edit(change)
    live_stack.up()
    told: Any = {"timezone": "UTC", "secret": "", **notify}
    wanted = configuration(told, secret)

    def is_given_on() -> bool:
        given = generated(live_stack)
        if given["route"]["routes"] != wanted["route"]["routes"]:
            return False
        return all(
            theirs.get(way, [{}])[0].get(name, False) == value
            for ours, theirs in zip(wanted["receivers"], given["receivers"], strict=True)
            for way in ours.keys() - {"name"}
            for name, value in ours[way][0].items()
            if name != "http_config"
        )

    assert eventually(is_given_on), generated(live_stack)["receivers"]
    with running(alertmanager, tmp_path, generated(live_stack)):
        pass
