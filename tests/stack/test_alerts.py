"""Alertmanager's configuration, as the Prometheus operator generates it."""

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from alertmanager_lab import WAYS, running
from live_stack import LiveStack
from waiting import eventually

from components.observability.notify import configuration
from components.observability.stack import ALERTMANAGER_SECRET

GENERATED = "alertmanager-kube-prom-stack-generated"


@pytest.fixture(autouse=True, scope="module")
def as_in_the_project(live_stack: LiveStack) -> Iterator[None]:
    """Restore the stack after these tests."""
    yield
    live_stack.up()


def generated(live_stack: LiveStack) -> Any:
    """Return the configuration that the operator generated."""
    packed = live_stack.core.read_namespaced_secret(GENERATED, "observability").data
    text = gzip.decompress(base64.b64decode(packed["alertmanager.yaml.gz"]))
    return yaml.safe_load(text)


@pytest.mark.parametrize(("notify", "secret"), [*WAYS, (None, "")])
def test_the_operator_passes_on_the_configuration_and_alertmanager_accepts_it(
    live_stack: LiveStack,
    alertmanager: Path,
    tmp_path: Path,
    notify: dict[str, Any] | None,
    secret: str,
) -> None:
    settings: Any = notify and {"timezone": "UTC", "secret": "", **notify}
    expected = configuration(settings, secret)
    # As `up` does.
    text = {"alertmanager.yaml": yaml.safe_dump(expected)}
    live_stack.core.patch_namespaced_secret(
        ALERTMANAGER_SECRET, "observability", {"stringData": text}
    )

    def is_passed_on() -> bool:
        actual = generated(live_stack)
        if actual["route"].get("routes", []) != expected["route"]["routes"]:
            return False
        return all(
            theirs.get(way, [{}])[0].get(name, False) == value
            for ours, theirs in zip(expected["receivers"], actual["receivers"], strict=True)
            for way in ours.keys() - {"name"}
            for name, value in ours[way][0].items()
            if name != "http_config"
        )

    assert eventually(is_passed_on), generated(live_stack)["receivers"]
    with running(alertmanager, tmp_path, generated(live_stack)):
        pass
