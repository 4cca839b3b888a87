"""What else is on the cluster, or is not any more, stops nothing of the stack's."""

from typing import Any

from doctor_lab import Place, manifest
from live_stack import LiveStack, addresses
from waiting import eventually

from ops import doctor, drift, stacks
from ops.cluster import DISCOVERY, Cluster
from ops.stacks import Stack

API = "v1beta1.metrics.k8s.io"


def test_an_api_whose_server_is_away_stops_neither_up_nor_drift_nor_the_doctor(
    live_stack: LiveStack,
) -> None:
    """As of the addon metrics-server, when the certificate that leads to it has ended."""
    place = Place(live_stack.cluster, live_stack.engine)
    spec = {
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "service": {"name": "metrics-server", "namespace": "kube-system"},
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,
    }
    kind = "apiregistration.k8s.io/v1"
    with place.created(manifest("APIService", API, spec=spec, apiVersion=kind)):

        def is_away() -> bool:
            found = Cluster(live_stack.cluster.context, live_stack.cluster.kubeconfig).read(
                "/apis", DISCOVERY
            )
            groups = {one["metadata"].get("name"): one["versions"] for one in found["items"]}
            return any(one.get("freshness") == "Stale" for one in groups.get("metrics.k8s.io", []))

        assert eventually(is_away)
        assert live_stack.up() == {}
        access = live_stack.cluster.kubeconfig
        stack = Stack(name="home", cli=live_stack.engine.cli, kubeconfig=access, simulated=False)
        assert drift.check(stack, stacks.deployment(stack)) == ([], [])
        for check in (doctor.api, doctor.names, doctor.addons):
            assert place.problems(check) == []


def test_a_service_that_goes_takes_no_address_of_another(live_stack: LiveStack) -> None:
    before = addresses(live_stack.core)
    page = "open-webui-service-local"
    assert set(before) == {page, "grafana-external"}
    stranger: Any = {
        "metadata": {"name": "stranger", "namespace": "ollama-stack"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": "none"}},
    }
    live_stack.core.create_namespaced_service("ollama-stack", stranger)
    live_stack.core.delete_namespaced_service(page, "ollama-stack")
    assert eventually(lambda: page not in addresses(live_stack.core))

    assert live_stack.up() == {"create": 1}

    assert eventually(lambda: addresses(live_stack.core)[page] == before[page])
    assert addresses(live_stack.core) == before | {"stranger": []}
    live_stack.core.delete_namespaced_service("stranger", "ollama-stack")


def test_a_prometheus_of_a_release_that_is_gone_is_told_and_takes_nothing(
    live_stack: LiveStack,
) -> None:
    """Its claim waits for ever; ours keeps its volume."""
    before = live_stack.bound()
    place = Place(live_stack.cluster, live_stack.engine)
    claim = {"storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}
    spec = {"storage": {"volumeClaimTemplate": {"spec": claim}}}
    old = manifest("Prometheus", "monitoring", "observability", spec=spec)
    with place.created(old | {"apiVersion": "monitoring.coreos.com/v1"}):
        assert place.problems(doctor.addons) == [
            "prometheuses observability/monitoring is left by a release"
        ]
        assert live_stack.up() == {}
        assert live_stack.bound() == before
