"""Alertmanager's configuration: routes, receivers and message templates."""

from typing import Any, NotRequired, TypedDict

from pulumi import Input

TITLE = (
    '{{ if eq .Status "resolved" }}Over: {{ end }}'
    "{{ with index .Alerts 0 }}{{ or .Annotations.summary .Labels.alertname }}{{ end }}"
    "{{ if gt (len .Alerts) 1 }} ({{ len .Alerts }} times){{ end }}"
)
"""Template of a message's title, one line."""
TEXT = (
    "{{ range $i, $alert := .Alerts }}{{ if $i }}\n\n{{ end }}"
    '{{ if eq .Status "resolved" }}It is over: {{ end }}'
    "{{ or .Annotations.description .Annotations.message .Annotations.summary }}"
    "{{ with .Annotations.runbook_url }}\nWhat to do: {{ . }}{{ end }}{{ end }}"
)
"""Template of a message's text: descriptions and runbook URLs."""
NOBODY, URGENT, BY_DAY, HEARTBEAT = "nobody", "urgent", "by-day", "heartbeat"


class Mail(TypedDict):
    """A mail account that sends alerts."""

    to: str
    sender: str
    smarthost: str
    """`host:port`; TLS is required, implicit on port 465."""


class Notify(TypedDict):
    """A receiver of alerts: one of `ntfy`, `pushover`, `email`, `telegram` and `webhook`."""

    ntfy: NotRequired[str | None]
    """URL of a server; the secret is a topic, followed by a space and an access token if needed."""
    pushover: NotRequired[str | None]
    """A user key; the secret is an application's API token."""
    email: NotRequired[Mail | None]
    """The secret is the password of `sender`."""
    telegram: NotRequired[int | None]
    """A chat ID; the secret is a bot's token."""
    webhook: NotRequired[str | None]
    """JSON key of the message; the secret is the URL."""
    heartbeat: NotRequired[str | None]
    """URL requested every 5 minutes while alerting works. Default: none."""
    secret: Input[str]
    timezone: str
    """IANA time zone, such as `Europe/Berlin`, of the hours for warnings, 8:00 to 22:00."""


def configuration(notify: Notify | None, secret: str) -> dict[str, Any]:
    """Return Alertmanager's configuration; without `notify`, all alerts go to an empty receiver.

    `secret` is the decrypted secret of `notify`. The configuration is for the whole cluster,
    because an AlertmanagerConfig matches alerts of its own namespace only.
    """
    receivers: list[dict[str, Any]] = [{"name": NOBODY}]
    routes: list[dict[str, Any]] = []
    if notify and (heartbeat := notify.get("heartbeat")):
        post = {"url": heartbeat, "send_resolved": False}
        receivers.append({"name": HEARTBEAT, "webhook_configs": [post]})
        # Repeated at the first group_interval after the repeat_interval: every 5 minutes.
        often = {"group_wait": "0s", "group_interval": "1m", "repeat_interval": "4m"}
        routes.append({"matchers": ['alertname = "Watchdog"'], "receiver": HEARTBEAT, **often})
    if notify:
        receivers += [
            {"name": URGENT, **_receiver(notify, secret, urgent=True)},
            {"name": BY_DAY, **_receiver(notify, secret, urgent=False)},
        ]
        routes += [
            {
                "matchers": ['severity = "critical"'],
                "receiver": URGENT,
                "group_wait": "10s",
                "repeat_interval": "4h",
            },
            # Alertmanager drops messages of the night: a warning that lasts is sent in the morning,
            # but one that was sent and is resolved at night is never reported as resolved.
            {
                "matchers": ['severity = "warning"'],
                "receiver": BY_DAY,
                "repeat_interval": "24h",
                "active_time_intervals": ["day"],
            },
        ]
    location = {"location": notify["timezone"]} if notify and notify["timezone"] != "UTC" else {}
    hours = [{"start_time": "08:00", "end_time": "22:00"}]
    return {
        "route": {"receiver": NOBODY, "group_by": ["alertname"], "routes": routes},
        # One message for an alert that is both critical and a warning.
        "inhibit_rules": [
            {
                "source_matchers": ['severity = "critical"'],
                "target_matchers": ['severity = "warning"'],
                "equal": ["namespace", "alertname"],
            }
        ],
        "time_intervals": [{"name": "day", "time_intervals": [{"times": hours, **location}]}],
        "receivers": receivers,
    }


def _receiver(notify: Notify, secret: str, *, urgent: bool) -> dict[str, Any]:
    """Return the integration of a receiver."""
    if server := notify.get("ntfy"):
        topic, _, token = secret.partition(" ")
        auth: dict[str, Any] = (
            {"http_config": {"authorization": {"credentials": token}}} if token else {}
        )
        # ntfy accepts JSON at the root URL (docs.ntfy.sh/publish).
        priority = 5 if urgent else 3
        payload = {"topic": topic, "title": TITLE, "message": TEXT, "priority": priority}
        return {"webhook_configs": [{"url": server, "payload": payload, **auth}]}
    if user := notify.get("pushover"):
        content = {"title": TITLE, "message": TEXT, "priority": "1" if urgent else "0"}
        return {"pushover_configs": [{"user_key": user, "token": secret, **content}]}
    if mail := notify.get("email"):
        account = {
            "to": mail["to"],
            "from": mail["sender"],
            "smarthost": mail["smarthost"],
            "auth_username": mail["sender"],
            "auth_password": secret,
        }
        message = {"headers": {"Subject": TITLE}, "html": "", "text": TEXT, "send_resolved": True}
        return {"email_configs": [{**account, **message}]}
    if chat := notify.get("telegram"):
        bot = {"chat_id": chat, "bot_token": secret, "disable_notifications": not urgent}
        return {"telegram_configs": [{**bot, "message": f"<b>{TITLE}</b>\n{TEXT}"}]}
    message = {str(notify.get("webhook")): f"{TITLE}\n{TEXT}"}
    return {"webhook_configs": [{"url": secret, "payload": message}]}
