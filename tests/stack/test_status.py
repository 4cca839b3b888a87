"""`make status` on the stack as it is up, by the account that may only look."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from doctor_lab import Place, manifest
from live_stack import LiveStack
from waiting import eventually

from components.observability import reader
from ops import status
from ops.cluster import Cluster, UnreadableError


@pytest.fixture
def account(live_stack: LiveStack, tmp_path: Path) -> Path:
    """A kubeconfig of `homelab-reader`."""
    asked = {"spec": {"expirationSeconds": 3600}}
    response = live_stack.core.create_namespaced_service_account_token(
        reader.ACCOUNT, "observability", asked
    )
    whole = yaml.safe_load(live_stack.cluster.kubeconfig.read_text())
    whole["users"][0]["user"] = {"token": response.status.token}
    (tmp_path / "reader").write_text(json.dumps(whole))
    return tmp_path / "reader"


@pytest.fixture
def look(account: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command without a Prometheus; gives what `--json` prints."""
    ask = Cluster.read

    def read(cluster: Cluster, path: str, *rest: str, **query: str) -> Any:
        if "/proxy/" in path:
            raise UnreadableError(f"{path}: 503 no endpoints")
        return ask(cluster, path, *rest, **query)

    monkeypatch.setattr(Cluster, "read", read)
    monkeypatch.setattr(status, "Cluster", lambda context: Cluster(context, account))

    def run() -> dict[str, Any]:
        assert status.run(argparse.Namespace(stack="sandbox", json=True)) == 1
        whole: dict[str, Any] = json.loads(capsys.readouterr().out)
        return whole

    return run


def problems(facts: list[dict[str, Any]]) -> dict[str, str]:
    """What is not well, by name."""
    names = ("pod", "service")
    return {
        next(fact[key] for key in names if key in fact): fact["problem"]
        for fact in facts
        if "problem" in fact
    }


def test_the_reader_sees_pods_addresses_and_the_last_up(look: Any) -> None:
    report = look()

    gone = "Prometheus: 503 no endpoints"
    assert report["unread"] == dict.fromkeys(
        ("models", "tokens_per_second", "disks", "alerts"), gone
    )
    assert {pod["pod"].rpartition("-")[0] for pod in report["pods"]} > {
        "observability/prometheus-kube-prom-stack",
        "metallb-system/controller".rpartition("-")[0],
    }
    assert problems(report["pods"]) == problems(report["addresses"]) == {}
    assert {entry["address"]: entry["given"] for entry in report["addresses"]} == {
        "192.168.1.101": ["192.168.1.101"],
        "192.168.1.102": ["192.168.1.102"],
    }
    assert len(report["last_up"]) == 1


def test_what_is_not_ready_says_what_it_waits_for(live_stack: LiveStack, look: Any) -> None:
    where = "ollama-stack"
    main = {"name": "main", "image": "example.invalid/x:1"}
    size = {"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]}
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "lost"}}
    labels = {"app": "refused"}
    spec = {"serviceAccountName": "nobody", "containers": [main]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    refused = {"selector": {"matchLabels": labels}, "template": template}
    outside = {"annotations": {"metallb.io/loadBalancerIPs": "203.0.113.9"}}
    port = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    with Place(live_stack.cluster, live_stack.engine).created(
        manifest("PersistentVolumeClaim", "lost", where, spec={**size, "storageClassName": "none"}),
        manifest("Pod", "waits", where, spec={"containers": [main], "volumes": [volume]}),
        manifest("Service", "outside", where, metadata=outside, spec=port),
        manifest("Deployment", "refused", where, apiVersion="apps/v1", spec=refused),
    ):

        def seen() -> bool:
            report = look()
            pods, services = problems(report["pods"]), problems(report["addresses"])
            return (
                pods.get(f"{where}/waits", "").startswith(f"claim {where}/lost is not bound; 0/1")
                and 'serviceaccount "nobody" not found' in pods.get(f"{where}/refused", "")
                and "not allowed in config" in services.get(f"{where}/outside", "")
            )

        assert eventually(seen), look()
