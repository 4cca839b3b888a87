"""The stack on the real node as its users see it: the page, the gateway, Prometheus, by HTTP."""

import asyncio
import base64
import ctypes
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from doctor_lab import connect
from harness import read
from page import ask, sign_in
from waiting import eventually

from ops import cluster as live
from ops import doctor_server
from sandbox.build import Tools
from sandbox.demo import settings
from sandbox.engine import Engine
from sandbox.real_cluster import Cluster

ARTEFACTS = Path(__file__).parent.parent / ".sandbox" / "artefacts"


def enter(pid: str) -> None:
    """Move this thread to the network namespace of a process; raises OSError."""
    with Path(f"/proc/{pid}/ns/net").open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True)
class Person:
    """An account of the page that has signed in."""

    email: str
    password: str
    token: str


class Server:
    """The stack on a cluster with a real node, and the ways to it from this machine."""

    def __init__(self, cluster: Cluster, tools: Tools) -> None:
        self.cluster, self.tools = cluster, tools
        self.config = settings(cluster)
        self.has_metrics = tools.chart is not None
        """Whether the release is the published one, whose programs run."""
        self.page = f"http://127.0.0.1:{cluster.ports['page']}"
        """As the client on the home network asks it."""
        self.people: dict[str, Person] = {}
        """Who has signed in, by role."""

    @property
    def engine(self) -> Engine:
        """The engine, with the configuration as it is now."""
        return Engine(self.cluster, self.tools, config=self.config)

    def begin(self) -> None:
        """Apply the configuration where there is nothing yet."""
        self.up()
        outputs = self.engine.outputs()
        self.email, self.password = (
            outputs[f"open_webui_{name}"][0] for name in ("email", "password")
        )
        self.people.clear()
        self.connect()

    def up(self) -> None:
        """Apply the configuration, and wait until the page answers."""
        self.engine.up(lambda _: None)
        self.cluster.wait_for_page()

    def start(self) -> None:
        """Start the cluster again, and wait until the page answers."""
        self.cluster.start()
        self.cluster.wait_for_page()
        self.connect()

    def cut(self) -> None:
        """Take the node's power: everything on it ends at once."""
        os.kill(self.cluster.holders["node"], signal.SIGKILL)
        assert eventually(lambda: "kubelet" not in self.cluster.node.processes.alive())

    def connect(self) -> None:
        """Make the ways to what has no address on the home network; again after a start."""
        forward = self.cluster.forward_service
        self.gateway = forward("gateway", "ollama-stack", "ollama-service", 11434)
        if self.has_metrics:
            name = "kube-prom-stack-prometheus"
            self.prometheus = forward("prometheus", "observability", name, 9090)

    def token(self) -> str:
        """The admin's token."""
        return self.person("admin").token

    def manage_token(self) -> str:
        """The token of the model Job."""
        secrets = connect(self.cluster).resources.get(api_version="v1", kind="Secret")
        data = secrets.get(name="ollama-gateway", namespace="ollama-stack").data
        return base64.b64decode(data["manage-token"]).decode()

    def person(self, role: str) -> Person:
        """Give the admin, or an account of another role that the admin adds.

        Each signs in once: the page refuses more than 15 times in three minutes.
        """
        if role not in self.people:
            who = {"email": self.email, "password": self.password}
            if role != "admin":
                who = {"email": f"{role}@example.org", "password": "a password of 8 or more"}
                added = {**who, "name": role, "role": role}
                status, text = ask("POST", f"{self.page}/api/v1/auths/add", added, self.token())
                assert status == 200, text
            self.people[role] = Person(**who, token=sign_in(self.page, **who))
        return self.people[role]

    def models(self, token: str) -> set[str]:
        """Names of the models that the page offers to somebody."""
        status, text = ask("GET", f"{self.page}/api/models", token=token)
        assert status == 200, text
        return {model["id"] for model in json.loads(text)["data"]}

    def chat(self, model: str, words: str, token: str) -> dict[str, Any]:
        """Chat through Open WebUI, streamed; give the text, the number of pieces and the usage."""
        wanted = {"model": model, "messages": [{"role": "user", "content": words}], "stream": True}
        path = f"{self.page}/api/chat/completions"
        status, text = ask("POST", path, wanted, token, timeout=300)
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

    def keep_chat(self) -> str:
        """Let the admin keep a chat; give its id."""
        wanted = {"chat": {"title": "kept", "models": ["gemma3:4b"], "messages": []}}
        status, text = ask("POST", f"{self.page}/api/v1/chats/new", wanted, self.token())
        assert status == 200, text
        identity: str = json.loads(text)["id"]
        return identity

    def title(self, chat: str) -> str | None:
        """The title of one of the admin's chats; None if it is not there."""
        status, text = ask("GET", f"{self.page}/api/v1/chats/{chat}", token=self.token())
        return json.loads(text)["title"] if status == 200 else None

    def title_again(self, chat: str) -> str | None:
        """The same; None also while the page does not answer."""
        with suppress(OSError):
            return self.title(chat)
        return None

    def answers(self) -> bool:
        """Say whether Ollama does, through its gateway."""
        with suppress(OSError):
            return ask("GET", f"{self.gateway}/api/tags")[0] == 200
        return False

    def loaded(self) -> list[dict[str, Any]]:
        """The models that are in Ollama's memory; none while it does not answer."""
        with suppress(OSError):
            status, text = ask("GET", f"{self.gateway}/api/ps")
            models: list[dict[str, Any]] = json.loads(text)["models"] if status == 200 else []
            return models
        return []

    def measures(self) -> bool:
        """Say whether Prometheus is ready."""
        with suppress(OSError):
            return ask("GET", f"{self.prometheus}/-/ready")[0] == 200
        return False

    def query(self, path: str) -> Any:
        """The data of an answer of Prometheus' API."""
        status, text = ask("GET", f"{self.prometheus}/api/v1/{path}")
        assert status == 200, f"{path}: {text}"
        return json.loads(text)["data"]

    def series(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus answers to an instant query."""
        result: list[dict[str, Any]] = self.query(f"query?query={quote(query)}")["result"]
        return result

    def value(self, query: str) -> float | None:
        """The one value of a query; None when it has no series."""
        result = self.series(query)
        assert len(result) < 2, f"{query}: {result}"
        return float(result[0]["value"][1]) if result else None

    def names(self, query: str) -> set[str]:
        """Names of the metrics in a query, as Prometheus reads it."""
        tree = json.dumps(self.query(f"parse_query?query={quote(query)}"))
        return set(re.findall(r'"name": "([^"]+)", "offset"', tree))

    def alerts(self) -> dict[str, str]:
        """State by name of every alert that is not quiet."""
        alerts = self.query("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in alerts}

    def hurry_alerts(self) -> None:
        """Divide every `for` of the stack's own alerts by 20, until the next `up`."""
        rules = connect(self.cluster).resources.get(
            api_version="monitoring.coreos.com/v1", kind="PrometheusRule"
        )
        for item in rules.get().to_dict()["items"]:
            if item["metadata"]["labels"].get("app.kubernetes.io/managed-by") == "Helm":
                continue
            for rule in (rule for group in item["spec"]["groups"] for rule in group["rules"]):
                if "for" in rule:
                    number, unit = int(rule["for"][:-1]), rule["for"][-1]
                    rule["for"] = f"{number * {'s': 1, 'm': 60, 'h': 3600}[unit] // 20}s"
            rules.replace(body=item, namespace=item["metadata"]["namespace"])
        # The operator hands them on, and a kubelet brings them within two minutes.
        assert eventually(lambda: self._longest() <= 3600 / 20)

    def _longest(self) -> float:
        """The longest `for` of the stack's own alerts that Prometheus has, in seconds."""
        groups = [group for group in self.query("rules")["groups"] if "homelab" in group["name"]]
        return max(float(rule.get("duration", 0)) for group in groups for rule in group["rules"])

    def live(self) -> live.Cluster:
        """The cluster as `make status` and the doctor read it."""
        return live.Cluster(self.cluster.context, self.cluster.kubeconfig)

    def problems(self, check: Callable[[doctor_server.Server], doctor_server.Problems]) -> set[str]:
        """What one of the doctor's checks says that needs nothing of an earlier one."""
        nothing: Any = None
        server = doctor_server.Server(
            settings=read(self.config), stack=nothing, cluster=self.live(), session=nothing
        )

        async def problems() -> set[str]:
            return {problem async for problem in check(server)}

        return asyncio.run(problems())

    def objects(self, version: str, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        resource = connect(self.cluster).resources.get(api_version=version, kind=kind)
        items: list[dict[str, Any]] = resource.get().to_dict()["items"]
        return items

    def dashboards(self) -> Iterator[tuple[str, str, str]]:
        """Title of the dashboard, title of the panel and query, of every query of ours."""
        for item in self.objects("v1", "ConfigMap"):
            labels = item["metadata"].get("labels", {})
            if "grafana_dashboard" not in labels or labels.get("release"):
                continue
            for text in item["data"].values():
                dashboard = json.loads(text)
                for panel in panels(dashboard["panels"]):
                    for target in panel.get("targets", []):
                        yield dashboard["title"], panel["title"], target["expr"]


def panels(these: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every panel, those in folded rows too."""
    for panel in these:
        yield panel
        yield from panels(panel.get("panels", []))


def filled(query: str) -> str:
    """A panel's query with Grafana's variables filled in: all servers and models, five minutes."""
    words = {"__rate_interval": "2m", "__interval": "30s", "__range": "5m"}
    words |= {"server": ".+", "model": ".+"}
    return re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda variable: words[variable[1]], query)
