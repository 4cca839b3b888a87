"""The running house as its users see it: the page, the gateway and Prometheus, by HTTP."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sandbox.demo import Demo

ARTEFACTS = Path(__file__).parent.parent / ".sandbox" / "artefacts"
GATEWAY = "ollama-service.ollama-stack:11434"


def ask(
    method: str, url: str, body: object = None, token: str = "", timeout: float = 60
) -> tuple[int, str]:
    """Give status and text of an answer."""
    parts = urlsplit(url)
    with closing(HTTPConnection(parts.netloc, timeout=timeout)) as connection:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        sent = None if body is None else json.dumps(body)
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), sent, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def sign_in(page: str, email: str, password: str) -> str:
    """Sign an account in and give its token."""
    who = {"email": email, "password": password}
    status, text = ask("POST", f"{page}/api/v1/auths/signin", who)
    assert status == 200, text
    token: str = json.loads(text)["token"]
    return token


@dataclass(frozen=True)
class Person:
    """An account of the page that has signed in."""

    email: str
    password: str
    token: str


@dataclass
class House:
    """What the tests talk to."""

    demo: Demo
    page: str
    gateway: str
    token: str = ""
    """Of the admin who has signed in."""

    @property
    def admin(self) -> dict[str, str]:
        """E-mail and password of the admin, as the pod gets them."""
        (page,) = [
            one
            for one in self.demo.machine.read("apps/v1", "Deployment")
            if one["metadata"]["name"] == "open-webui"
        ]
        (container,) = page["spec"]["template"]["spec"]["containers"]
        variables = {one["name"]: one.get("value", "") for one in container["env"]}
        return {
            "email": variables["WEBUI_ADMIN_EMAIL"],
            "password": self.secret("open-webui", "WEBUI_ADMIN_PASSWORD"),
        }

    def secret(self, name: str, key: str) -> str:
        """A Secret's value at the API server."""
        (secret,) = [
            one for one in self.demo.machine.read("v1", "Secret") if one["metadata"]["name"] == name
        ]
        return b64decode(secret["data"][key]).decode()

    def sign_in(self) -> None:
        """Get a token of the admin."""
        self.token = sign_in(self.page, **self.admin)

    def person(self, role: str) -> Person:
        """Give the admin, or an account of another role that the admin adds if it is not there."""
        if role == "admin":
            return Person(**self.admin, token=self.token)
        new = {"email": f"{role}@example.org", "password": "a password of 8 or more"}
        added = {**new, "name": role, "role": role}
        status, text = ask("POST", f"{self.page}/api/v1/auths/add", added, self.token)
        assert status == 200 or "already" in text, text
        return Person(**new, token=sign_in(self.page, **new))

    def models(self, token: str) -> set[str]:
        """Names of the models that the page offers to somebody."""
        status, text = ask("GET", f"{self.page}/api/models", token=token)
        assert status == 200, text
        return {model["id"] for model in json.loads(text)["data"]}

    def chat(self, model: str, words: str, token: str = "") -> dict[str, Any]:
        """Chat through Open WebUI, streamed, as the admin or whose token it is.

        Gives the text, the number of pieces and the usage.
        """
        wanted = {"model": model, "messages": [{"role": "user", "content": words}], "stream": True}
        path = f"{self.page}/api/chat/completions"
        status, text = ask("POST", path, wanted, token or self.token)
        assert status == 200, text
        lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        events = [json.loads(line) for line in lines]
        pieces = [
            choice["delta"].get("content") or ""
            for event in events
            for choice in event.get("choices", [])
        ]
        (usage,) = [event["usage"] for event in events if event.get("usage")]
        return {"text": "".join(pieces), "pieces": len([p for p in pieces if p]), "usage": usage}

    def series(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        when = f"&time={at}" if at else ""
        path = f"{self.demo.prometheus}/api/v1/query?query={quote(query)}{when}"
        status, text = ask("GET", path)
        assert status == 200, f"{query}: {text}"
        result: list[dict[str, Any]] = json.loads(text)["data"]["result"]
        return result

    def metrics(self, query: str) -> set[str]:
        """Names of the metrics in a query, as Prometheus reads it."""
        path = f"{self.demo.prometheus}/api/v1/parse_query?query={quote(query)}"
        status, text = ask("GET", path)
        assert status == 200, f"{query}: {text}"
        return set(re.findall(r'"name":"([^"]+)","offset"', text))

    def value(self, query: str) -> float | None:
        """The one value of a query; None when it has no series."""
        found = self.series(query)
        assert len(found) < 2, f"{query}: {found}"
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> dict[str, str]:
        """State by name of every alert that is not quiet."""
        _, text = ask("GET", f"{self.demo.prometheus}/api/v1/alerts")
        return {
            one["labels"]["alertname"]: one["state"] for one in json.loads(text)["data"]["alerts"]
        }

    def reload(self, rules: dict[str, Any]) -> None:
        """Let Prometheus have these rules."""
        self.demo.monitoring.write_rules(rules)
        status, text = ask("POST", f"{self.demo.prometheus}/-/reload")
        assert status == 200, text

    def dashboards(self) -> Iterator[tuple[str, str, str]]:
        """Title of the dashboard, title of the panel and query, of every query there is."""
        for one in self.demo.machine.read("v1", "ConfigMap"):
            if "grafana_dashboard" not in one["metadata"].get("labels", {}):
                continue
            for text in one["data"].values():
                dashboard = json.loads(text)
                for panel in panels(dashboard["panels"]):
                    for target in panel.get("targets", []):
                        yield dashboard["title"], panel["title"], target["expr"]


def impatient(rules: dict[str, Any], alert: str) -> dict[str, Any]:
    """Let one alert fire after a few seconds instead of its minutes."""
    for spec in rules.values():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if rule.get("alert") == alert:
                rule["for"] = "6s"
    return rules


def panels(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every panel, those in folded rows too."""
    for panel in found:
        yield panel
        yield from panels(panel.get("panels", []))


def filled(query: str) -> str:
    """A panel's query with Grafana's variables filled in: all models, the last two minutes."""
    words = {"__rate_interval": "1m", "__interval": "30s", "__range": "2m", "model": ".+"}
    return re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda found: words[found[1]], query)
