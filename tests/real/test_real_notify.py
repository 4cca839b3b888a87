"""Alerts reach somebody: from Prometheus through Alertmanager to a listener on the home network."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from doctor_lab import connect
from live_stack import encrypted
from real_lab import Server, enter
from waiting import eventually

from sandbox import network

pytestmark = pytest.mark.faults

PORT = 8642
URL = f"http://{network.CLIENT}:{PORT}"
FIRING = {
    "OllamaDown": {"namespace": "ollama-stack", "instance": "ollama"},
    "DataDiskFull": {"namespace": "observability", "mountpoint": "/mnt/evo4t"},
    "NothingMeasured": {},
}
"""Labels of the alerts that are let fire, by name."""
TITLES = {
    "Ollama of model server ollama does not answer",
    "/mnt/evo4t is full, or will be within minutes",
    "Prometheus stores no samples",
}


@pytest.fixture
def posted(metrics: Server) -> Iterator[list[tuple[str, Any]]]:
    """Path and body of what is posted to a listener on the laptop, to which alerts are sent."""
    bodies: list[tuple[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    def listen() -> ThreadingHTTPServer:
        # A socket stays in the namespace that it was created in; so does this thread.
        enter(str(metrics.cluster.holders["client"]))
        return ThreadingHTTPServer((network.CLIENT, PORT), Listener)

    with ThreadPoolExecutor(1) as pool:
        listener = pool.submit(listen).result()
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    metrics.config["observability"]["notify"] = {"webhook": "text", "heartbeat": f"{URL}/heartbeat"}
    metrics.config["notifySecret"] = encrypted(metrics.engine, f"{URL}/hook")
    metrics.up()
    yield bodies
    del metrics.config["observability"]["notify"], metrics.config["notifySecret"]
    # Brings back the rules as well.
    metrics.up()
    listener.shutdown()
    listener.server_close()


def test_alerts_of_every_namespace_and_of_none_arrive_as_sentences(
    metrics: Server, posted: list[tuple[str, Any]]
) -> None:
    rules = connect(metrics.cluster).resources.get(
        api_version="monitoring.coreos.com/v1", kind="PrometheusRule"
    )
    sentences = {}
    for item in rules.get(namespace="observability").to_dict()["items"]:
        for rule in (rule for group in item["spec"]["groups"] for rule in group["rules"]):
            if (name := rule.get("alert")) in FIRING:
                value = "vector(0.05)"
                for label, text in FIRING[name].items():
                    value = f'label_replace({value}, "{label}", "{text}", "", "")'
                rule["expr"], rule["for"] = value, "0s"
                sentences[name] = rule["annotations"]
                rules.replace(body=item, namespace="observability")
    assert sentences.keys() == FIRING.keys()

    def texts() -> dict[str, str]:
        """What has arrived by the last word of its last line, which is the runbook's anchor."""
        arrived = [body["text"] for path, body in posted if path == "/hook"]
        return {text.rpartition("#")[2]: text for text in arrived}

    assert eventually(lambda: texts().keys() >= {name.lower() for name in FIRING}), posted
    # Another alert may fire as well, after the faults of other tests.
    mine = [texts()[name.lower()].split("\n") for name in FIRING]
    titles, lines, todos = zip(*mine, strict=True)
    assert set(titles) == TITLES
    assert all(line.endswith(".") and "{" not in line for line in lines)
    urls = {annotations["runbook_url"] for annotations in sentences.values()}
    assert {todo.removeprefix("What to do: ") for todo in todos} == urls
    assert eventually(lambda: "/heartbeat" in {path for path, _ in posted}), posted
