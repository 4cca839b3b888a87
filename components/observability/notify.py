"""Alertmanager's configuration: which alert goes where, when, and in which words."""

from typing import Any, NotRequired, TypedDict

from pulumi import Input

TITLE = (
    '{{ if eq .Status "resolved" }}Over: {{ end }}'
    "{{ with index .Alerts 0 }}{{ or .Annotations.summary .Labels.alertname }}{{ end }}"
    "{{ if gt (len .Alerts) 1 }} ({{ len .Alerts }} times){{ end }}"
)
"""One line: what has happened."""
TEXT = (
    "{{ range $i, $alert := .Alerts }}{{ if $i }}\n\n{{ end }}"
    '{{ if eq .Status "resolved" }}It is over: {{ end }}'
    "{{ or .Annotations.description .Annotations.message .Annotations.summary }}"
    "{{ with .Annotations.runbook_url }}\nWhat to do: {{ . }}{{ end }}{{ end }}"
)
"""What it means, and where it stands what to do."""
NOBODY, URGENT, BY_DAY, HEARTBEAT = "nobody", "urgent", "by-day", "heartbeat"


class Mail(TypedDict):
    """An account that sends mail."""

    to: str
    sender: str
    smarthost: str
    """`host:port`; TLS is asked for, from the start on port 465."""


class Notify(TypedDict):
    """Where alerts go: by one of `ntfy`, `pushover`, `email`, `telegram` and `webhook`."""

    ntfy: NotRequired[str | None]
    """URL of a server; the secret is the topic, and after a blank an access token if it has one."""
    pushover: NotRequired[str | None]
    """A user's key; the secret is the application's token."""
    email: NotRequired[Mail | None]
    """The secret is the password of `sender`."""
    telegram: NotRequired[int | None]
    """A chat's number; the secret is the bot's token."""
    webhook: NotRequired[str | None]
    """The key of a JSON object that has the message; the secret is the URL."""
    heartbeat: NotRequired[str | None]
    """URL that is asked every five minutes as long as alerts come through. Default: none."""
    secret: Input[str]
    timezone: str
    """IANA's name, such as `Europe/Berlin`: there it is day from 8 to 22."""


def configuration(notify: Notify | None, secret: str) -> dict[str, Any]:
    """Alertmanager's configuration, as its YAML has it; without `notify` it tells nobody.

    `secret` is that of `notify`, in plain text.
    One for the whole cluster: an AlertmanagerConfig has alerts of its own namespace only.
    """
    receivers: list[dict[str, Any]] = [{"name": NOBODY}]
    routes: list[dict[str, Any]] = []
    if notify and (heartbeat := notify.get("heartbeat")):
        post = {"url": heartbeat, "send_resolved": False}
        receivers.append({"name": HEARTBEAT, "webhook_configs": [post]})
        # Asked anew at the first group_interval after the repeat_interval.
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
            # At night they wait for the morning, and are not sent if they are over by then.
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
        # The same alert of one namespace, worse: one message.
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
    """The one integration of a receiver."""
    if server := notify.get("ntfy"):
        topic, _, token = secret.partition(" ")
        login: dict[str, Any] = (
            {"http_config": {"authorization": {"credentials": token}}} if token else {}
        )
        # ntfy.sh publishes JSON at the root (docs.ntfy.sh/publish).
        priority = 5 if urgent else 3
        payload = {"topic": topic, "title": TITLE, "message": TEXT, "priority": priority}
        return {"webhook_configs": [{"url": server, "payload": payload, **login}]}
    if user := notify.get("pushover"):
        words = {"title": TITLE, "message": TEXT, "priority": "1" if urgent else "0"}
        return {"pushover_configs": [{"user_key": user, "token": secret, **words}]}
    if mail := notify.get("email"):
        account = {
            "to": mail["to"],
            "from": mail["sender"],
            "smarthost": mail["smarthost"],
            "auth_username": mail["sender"],
            "auth_password": secret,
        }
        letter = {"headers": {"Subject": TITLE}, "html": "", "text": TEXT, "send_resolved": True}
        return {"email_configs": [{**account, **letter}]}
    if chat := notify.get("telegram"):
        bot = {"chat_id": chat, "bot_token": secret, "disable_notifications": not urgent}
        return {"telegram_configs": [{**bot, "message": f"<b>{TITLE}</b>\n{TEXT}"}]}
    message = {str(notify.get("webhook")): f"{TITLE}\n{TEXT}"}
    return {"webhook_configs": [{"url": secret, "payload": message}]}
