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
def place(live_stack: LiveStack) -> Place:
    """The cluster of the live stack."""
    return Place(live_stack.cluster, live_stack.engine)


def test_the_stacks_own_objects_are_no_conflict(place: Place) -> None:
    for check in (doctor.names, doctor.addresses, doctor.addons):
        assert place.problems(check) == []


def test_without_a_state_the_stacks_objects_are_conflicts(place: Place) -> None:
    results = place.problems(doctor.names, state=False)

    assert 'StorageClass "local-path" already exists' in results
    assert 'Namespace "ollama-stack" already exists' in results
    assert 'PersistentVolume "ollama-stack-models" already exists' in results
    addresses = place.problems(doctor.addresses, state=False)
    assert "192.168.1.102 is used by Service observability/grafana-external" in addresses


def has_endpoints(place: Place) -> bool:
    """Return whether Prometheus' Service has an endpoint."""
    kind = place.kube.resources.get(api_version="discovery.k8s.io/v1", kind="EndpointSlice")
    label = "kubernetes.io/service-name=kube-prom-stack-prometheus"
    slices = kind.get(namespace="observability", label_selector=label).items
    return any(item.endpoints for item in slices)


def test_the_doctor_queries_prometheus_through_the_api_server(
    place: Place, own_address: str
) -> None:
    address, queries = own_address, []

    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            queries.append(parse_qs(urlsplit(self.path).query)["query"][0])
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
            """Log nothing."""

    names = ("kube-prom-stack-prometheus", "observability")
    with ThreadingHTTPServer((address, 0), Prometheus) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        # With an unknown scheduler the pod keeps the address that is set here.
        containers = [{"name": "main", "image": "scripted"}]
        pod = manifest("Pod", *names, spec={"schedulerName": "nobody", "containers": containers})
        target = {"kind": "Pod", "name": names[0], "namespace": names[1]}
        ports = [{"name": "http-web", "port": server.server_port}]
        subset = {"addresses": [{"ip": address, "targetRef": target}], "ports": ports}
        # The client's types say of every field that it may be missing.
        core: Any = CoreV1Api(place.kube.client)
        selector = core.read_namespaced_service(*names).spec.selector
        try:
            # Nothing answers at the address of the simulated pod.
            nobody = {**dict.fromkeys(selector), "nobody": "here"}
            core.patch_namespaced_service(*names, {"spec": {"selector": nobody}})
            assert eventually(lambda: not has_endpoints(place))
            with pytest.raises(UnreadableError, match="503 no endpoints"):
                place.problems(doctor_server.metrics)
            with place.created(pod):
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
                core.patch_namespaced_pod_status(*names, {"status": status})
                # Without a selector, no controller changes the endpoints.
                core.patch_namespaced_service(*names, {"spec": {"selector": None}})
                core.patch_namespaced_endpoints(*names, {"subsets": [subset]})
                eventually(lambda: has_endpoints(place))
                assert place.problems(doctor_server.metrics) == []
        finally:
            restored = {**selector, "nobody": None}
            core.patch_namespaced_service(*names, {"spec": {"selector": restored}})
            server.shutdown()
    assert queries == ['count by (job, instance) ({job=~"ollama-stack/.+"})']
