"""The doctor on a real API server with the stack up."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from doctor_lab import Place, manifest
from kubernetes.client import CoreV1Api
from live_stack import LiveStack
from waiting import eventually

from ops import doctor, doctor_server
from ops.cluster import UnreadableError


@pytest.fixture
def lived_in(live_stack: LiveStack) -> Place:
    """A cluster with the stack up."""
    return Place(live_stack.cluster, live_stack.engine)


def test_what_the_stack_made_itself_is_not_in_its_way(lived_in: Place) -> None:
    for check in (doctor.names, doctor.addresses, doctor.addons):
        assert lived_in.problems(check) == []


def test_what_a_forgotten_state_would_collide_with_fails(lived_in: Place) -> None:
    found = lived_in.problems(doctor.names, state=False)

    assert 'StorageClass "local-path" already exists' in found
    assert 'Namespace "ollama-stack" already exists' in found
    assert 'PersistentVolume "ollama-stack-models" already exists' in found
    addresses = lived_in.problems(doctor.addresses, state=False)
    assert "192.168.1.102 is used by Service observability/grafana-external" in addresses


def has_endpoints(place: Place) -> bool:
    """Say whether the API server knows an address behind Prometheus' Service."""
    kind = place.kube.resources.get(api_version="discovery.k8s.io/v1", kind="EndpointSlice")
    label = "kubernetes.io/service-name=kube-prom-stack-prometheus"
    found = kind.get(namespace="observability", label_selector=label).items
    return any(one.endpoints for one in found)


def test_prometheus_is_asked_through_the_api_server(lived_in: Place, own_address: str) -> None:
    address, asked = own_address, []

    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(parse_qs(urlsplit(self.path).query)["query"][0])
            pushers = {"ollama-gateway": "ollama", "open-webui": "open-webui"}
            series = [
                {"metric": {"job": f"ollama-stack/{job}", "instance": name}, "value": [0, "3"]}
                for job, name in pushers.items()
            ]
            body = json.dumps({"data": {"result": series}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    where = ("kube-prom-stack-prometheus", "observability")
    with ThreadingHTTPServer((address, 0), Prometheus) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        # Scheduled by nobody, so that its address is the one given here.
        containers = [{"name": "main", "image": "scripted"}]
        pod = manifest("Pod", *where, spec={"schedulerName": "nobody", "containers": containers})
        behind = {"kind": "Pod", "name": where[0], "namespace": where[1]}
        ports = [{"name": "http-web", "port": server.server_port}]
        subset = {"addresses": [{"ip": address, "targetRef": behind}], "ports": ports}
        # The client's types say of every field that it may be missing.
        core: Any = CoreV1Api(lived_in.kube.client)
        selector = core.read_namespaced_service(*where).spec.selector
        try:
            # The simulated pod, too, has an address, and nothing answers there.
            nobody = {**dict.fromkeys(selector), "nobody": "here"}
            core.patch_namespaced_service(*where, {"spec": {"selector": nobody}})
            assert eventually(lambda: not has_endpoints(lived_in))
            with pytest.raises(UnreadableError, match="503 no endpoints"):
                lived_in.problems(doctor_server.metrics)
            with lived_in.created(pod):
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
                core.patch_namespaced_pod_status(*where, {"status": status})
                # Without a selector nobody else says what is behind the Service.
                core.patch_namespaced_service(*where, {"spec": {"selector": None}})
                core.patch_namespaced_endpoints(*where, {"subsets": [subset]})
                eventually(lambda: has_endpoints(lived_in))
                assert lived_in.problems(doctor_server.metrics) == []
        finally:
            back = {**selector, "nobody": None}
            core.patch_namespaced_service(*where, {"spec": {"selector": back}})
            server.shutdown()
    assert asked == ['count by (job, instance) ({job=~"ollama-stack/.+"})']
