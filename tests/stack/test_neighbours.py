"""Other objects on the cluster, or their absence, do not disturb the stack."""

from typing import Any

from doctor_lab import Place, manifest
from live_stack import LiveStack, addresses
from waiting import eventually

from ops import doctor, drift, stacks
from ops.cluster import DISCOVERY, Cluster
from ops.stacks import Stack

API = "v1beta1.metrics.k8s.io"


def test_an_unavailable_api_service_is_no_problem_for_up_drift_and_doctor(
    live_stack: LiveStack,
) -> None:
    """As with the addon metrics-server after its certificate has expired."""
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

        def is_stale() -> bool:
            groups_ = Cluster(live_stack.cluster.context, live_stack.cluster.kubeconfig).read(
                "/apis", DISCOVERY
            )
            groups = {item["metadata"].get("name"): item["versions"] for item in groups_["items"]}
            return any(
                item.get("freshness") == "Stale" for item in groups.get("metrics.k8s.io", [])
            )

        assert eventually(is_stale)
        assert live_stack.up() == {}
        access = live_stack.cluster.kubeconfig
        stack = Stack(name="home", cli=live_stack.engine.cli, kubeconfig=access)
        assert drift.check(stack, stacks.deployment(stack)) == ([], [])
        for check in (doctor.api, doctor.names, doctor.addons):
            assert place.problems(check) == []


def test_a_new_load_balancer_does_not_get_the_address_of_a_deleted_service(
    live_stack: LiveStack,
) -> None:
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


def test_a_leftover_prometheus_is_reported_and_gets_no_volume_of_the_stack(
    live_stack: LiveStack,
) -> None:
    before = live_stack.bound()
    place = Place(live_stack.cluster, live_stack.engine)
    claim = {"storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}
    spec = {"storage": {"volumeClaimTemplate": {"spec": claim}}}
    old = manifest("Prometheus", "monitoring", "observability", spec=spec)
    with place.created(old | {"apiVersion": "monitoring.coreos.com/v1"}):
        assert place.problems(doctor.addons) == [
            "prometheuses observability/monitoring remains from a removed release"
        ]
        assert live_stack.up() == {}
        assert live_stack.bound() == before
