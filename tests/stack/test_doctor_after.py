"""The doctor on a real API server with the stack up."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from doctor_lab import Place, thing, volume
from house_lab import House
from kubernetes.client import CoreV1Api

from ops import doctor, doctor_house, doctor_taken
from ops.doctor_checks import Result, run


@pytest.fixture
def lived_in(house: House) -> Place:
    """A cluster with the stack up."""
    return Place(house.cluster, house.engine)


def test_what_the_stack_made_itself_is_not_in_its_way(lived_in: Place) -> None:
    assert int(lived_in.look("state").text.split()[2]) > 40
    assert lived_in.look("names") == Result("ok", "all made by this stack")
    assert lived_in.look("addresses").level == "ok"
    assert lived_in.look("observability").level == "ok"
    with lived_in.planted(volume("another", "/mnt/evo4t/models")):
        assert lived_in.look("names").level == "fail"


def test_what_a_forgotten_state_would_collide_with_is_told(lived_in: Place) -> None:
    house = lived_in.house()
    found = doctor_taken.names(house.cluster, None, house.program)

    assert found.level == "fail"
    for told in ("StorageClass local-path", "PersistentVolume ollama-stack-models", "Namespace"):
        assert told in found.text


def test_prometheus_is_asked_through_the_api_server(lived_in: Place, own_address: str) -> None:
    address, asked = own_address, []

    class Prometheus(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(parse_qs(urlsplit(self.path).query)["query"][0])
            pushers = [{"metric": {"job": job}, "value": [0, "3"]} for job in doctor_house.PUSHERS]
            body = json.dumps({"data": {"result": pushers}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    def look() -> Result:
        ((_, result),) = run(one for one in doctor.after(lived_in.house()) if one.name == "metrics")
        return result

    where = ("kube-prom-stack-prometheus", "observability")
    # Scheduled by nobody, so that its address is the one given here.
    containers = [{"name": "main", "image": "scripted"}]
    pod = thing("Pod", *where, spec={"schedulerName": "nobody", "containers": containers})
    service = thing("Service", *where, spec={"ports": [{"name": "http-web", "port": 9090}]})
    with ThreadingHTTPServer((address, 0), Prometheus) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        behind = {"kind": "Pod", "name": where[0], "namespace": where[1]}
        ports = [{"name": "http-web", "port": server.server_port}]
        subset = {"addresses": [{"ip": address, "targetRef": behind}], "ports": ports}
        try:
            assert look() == Result("fail", "there is no Prometheus", look().do)
            with lived_in.planted(pod, service):
                core = CoreV1Api(lived_in.kube.client)
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
                core.patch_namespaced_pod_status(*where, {"status": status})
                endpoints = thing("Endpoints", *where, subsets=[subset])
                core.create_namespaced_endpoints(where[1], endpoints)  # type: ignore[arg-type]
                assert look() == Result("ok", "6 series of 2 pushers")
        finally:
            server.shutdown()
    assert asked == ['count by (job) ({job=~"ollama-stack/.+"})']
