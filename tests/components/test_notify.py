"""Where alerts go: what a stack file may say, and what arrives, by the real Alertmanager."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from alertmanager_lab import MAIL, WAYS, running
from harness import deploy_program, read, stack_config
from scripted import ScriptedServer, whole
from waiting import eventually

from components.observability.notify import configuration
from config import SettingsError
from config.stack_file import without_secrets

WRONG: list[tuple[Any, str | None, str]] = [
    ({}, "x", "observability.notify: got [], want exactly one of ntfy, pushover, email, telegram,"),
    (
        {"ntfy": "https://ntfy.sh", "telegram": 1},
        "x",
        "observability.notify: got ['ntfy', 'telegram'], want exactly one of ntfy, pushover,",
    ),
    (None, "x", "notifySecret: got [secret], want nothing without observability.notify"),
    ({"ntfy": "https://ntfy.sh"}, None, "notifySecret: missing, want a topic, followed by a space"),
    ({"ntfy": "https://ntfy.sh"}, "a/b", "notifySecret: got [secret], want a topic, followed"),
    ({"ntfy": "ntfy.sh"}, "topic", "observability.notify.ntfy: got 'ntfy.sh', want a URL, https"),
    (
        {"webhook": "text"},
        "hooks.example.org",
        "notifySecret: got [secret], want a URL, https://…:",
    ),
    ({"webhook": "body"}, "https://x", "observability.notify.webhook: got 'body', want text, cont"),
    ({"telegram": "1"}, "1:a", "observability.notify.telegram: got '1', want a chat ID"),
    ({"telegram": 0}, "1:a", "observability.notify.telegram: got 0, want a chat ID"),
    ({"telegram": 1}, "abc", "notifySecret: got [secret], want a bot's token, such as 123456:ABC"),
    ({"pushover": "u"}, "short", "notifySecret: got [secret], want an application's API token, 30"),
    (
        {"email": {**MAIL, "smarthost": "smtp.example.com"}},
        "x",
        "observability.notify.email.smarthost: got 'smtp.example.com', want host:port, such as",
    ),
    (
        {"email": {"to": MAIL["to"], "smarthost": MAIL["smarthost"]}},
        "x",
        "observability.notify.email.sender: missing, want",
    ),
    (
        {"ntfy": "https://ntfy.sh", "timezone": "Berlin"},
        "topic",
        "observability.notify.timezone: got 'Berlin', want a time zone, such as Europe/Berlin",
    ),
]


def stack(notify: Any, secret: str | None) -> dict[str, Any]:
    """The home stack with this way."""
    raw = stack_config("home")
    raw["observability"] |= {"notify": notify} if notify is not None else {}
    return raw | ({"notifySecret": secret} if secret else {})


@pytest.mark.parametrize(("notify", "secret", "line"), WRONG)
def test_a_way_that_cannot_work_is_refused(notify: Any, secret: str | None, line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(stack(notify, secret))

    assert str(caught.value).startswith(f"homelab:{line}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("notify", "secret"), WAYS)
def test_whoever_reads_the_file_without_pulumi_needs_no_secret(
    notify: dict[str, Any], secret: str
) -> None:
    assert secret
    raw = stack(notify, None) | {"notifySecret": {"secure": "v1:abc=:def=="}}

    assert read(raw).observability.notify
    # As `make diff` hands it to the engine.
    assert read(without_secrets(raw, "placeholder")[0]).observability.notify


@pytest.mark.parametrize(("notify", "secret"), WAYS)
def test_the_secret_is_only_in_a_secret(notify: dict[str, Any], secret: str) -> None:
    lab = deploy_program("home", stack(notify, secret))
    resource = lab["kubernetes:core/v1:Secret::monitoring-alertmanager"]
    release = next(it for it in lab.of_kind("Release") if "prom" in it.inputs["name"])
    values = release.inputs["values"]["alertmanager"]["alertmanagerSpec"]

    assert resource.secrets
    assert resource.inputs["metadata"]["name"] == values["configSecret"]
    assert values["useExistingSecret"] is True
    assert "monitoring-alertmanager" in release.dependencies
    config = yaml.safe_load(resource.inputs["stringData"]["alertmanager.yaml"])
    args: Any = {"timezone": "UTC", "secret": "", **notify}
    assert config == configuration(args, secret)
    others = [it.inputs for key, it in lab.resources.items() if it is not resource]
    assert secret not in json.dumps(others, default=str)
    assert lab.outputs["alerts"].startswith(f"by {next(iter(notify))}: critical at once")


def test_without_a_way_up_says_that_alerts_reach_nobody() -> None:
    lab = deploy_program("home", stack(None, None))
    resource = lab["kubernetes:core/v1:Secret::monitoring-alertmanager"].inputs["stringData"]

    assert lab.outputs["alerts"].startswith("reach nobody: ")
    assert yaml.safe_load(resource["alertmanager.yaml"])["route"]["routes"] == []


@pytest.fixture
def listener() -> Iterator[ScriptedServer]:
    """A server that accepts what is posted to it."""
    server = ScriptedServer(dict.fromkeys(("/", "/hook", "/heartbeat"), whole({})))
    yield server
    server.close()


def post(base: str, alerts: list[dict[str, Any]]) -> None:
    """Post alerts as Prometheus does."""
    headers = {"Content-Type": "application/json"}
    urlopen(Request(f"{base}/api/v2/alerts", json.dumps(alerts).encode(), headers)).close()


def alert(name: str, severity: str, **labels: str) -> dict[str, Any]:
    """An alert as Prometheus posts it."""
    annotations = {
        "summary": f"{name} has happened",
        "description": 'It is <50 % & "bad". Look at it.',
        "runbook_url": f"docs/runbook.md#{name.lower()}",
    }
    return {
        "labels": {"alertname": name, "severity": severity, **labels},
        "annotations": annotations,
    }


@pytest.mark.parametrize("way", ["ntfy", "webhook"])
def test_what_arrives_is_a_sentence_with_the_runbooks_anchor(
    alertmanager: Path, tmp_path: Path, listener: ScriptedServer, way: str
) -> None:
    url = f"http://127.0.0.1:{listener.port}"
    args: Any = {
        "timezone": "UTC",
        "heartbeat": f"{url}/heartbeat",
        **({"ntfy": url} if way == "ntfy" else {"webhook": "text"}),
    }
    config = configuration(args, "topic" if way == "ntfy" else f"{url}/hook")
    for route in config["route"]["routes"]:
        route["group_wait"] = "0s"
    alerts = [
        alert("OllamaDown", "critical", namespace="ollama-stack"),
        alert("KubeAPIDown", "critical", namespace="observability"),
        alert("NodeDown", "critical"),
        alert("Chatter", "info", namespace="ollama-stack"),
        alert("Watchdog", "none"),
    ]

    with running(alertmanager, tmp_path, config) as base:
        post(base, alerts)
        assert eventually(lambda: len(listener.seen) >= 4), (tmp_path / "log").read_text()

    expected = "/" if way == "ntfy" else "/hook"
    assert sorted(post.path for post in listener.seen) == sorted(["/heartbeat", *[expected] * 3])
    bodies = [json.loads(post.body) for post in listener.got(expected)]
    for name in ("OllamaDown", "KubeAPIDown", "NodeDown"):
        title = f"{name} has happened"
        text = f'It is <50 % & "bad". Look at it.\nWhat to do: docs/runbook.md#{name.lower()}'
        published = {"topic": "topic", "title": title, "message": text, "priority": 5}
        assert (published if way == "ntfy" else {"text": f"{title}\n{text}"}) in bodies


def zone_where_it_is(hour: int) -> str:
    """A time zone where it is this hour now; its name has the sign of POSIX."""
    east = (hour - datetime.now(UTC).hour + 11) % 24 - 11
    return f"Etc/GMT{-east:+}"


@pytest.mark.parametrize(("hour", "comes"), [(15, True), (3, False)])
def test_a_warning_waits_for_the_day_and_a_critical_alert_does_not(
    alertmanager: Path,
    tmp_path: Path,
    listener: ScriptedServer,
    hour: int,
    comes: bool,
) -> None:
    url = f"http://127.0.0.1:{listener.port}"
    args: Any = {"timezone": zone_where_it_is(hour), "webhook": "text"}
    config = configuration(args, f"{url}/hook")
    for route in config["route"]["routes"]:
        route["group_wait"] = "0s"

    with running(alertmanager, tmp_path, config) as base:
        post(base, [alert("OllamaDown", "critical"), alert("FirstTokenSlow", "warning")])

        def muted() -> bool:
            with urlopen(f"{base}/metrics") as answer:
                text = answer.read().decode()
            return bool(re.search(r"suppressed_total{reason=\"active_time_interval\"} [1-9]", text))

        assert eventually(lambda: len(listener.got("/hook")) == 1 + comes and (comes or muted()))

    texts = "".join(json.loads(post.body)["text"] for post in listener.got("/hook"))
    assert ("FirstTokenSlow has" in texts) == comes
    assert "OllamaDown has" in texts
