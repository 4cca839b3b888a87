"""The stack example-two-nodes: Ollama on the large node, the rest on the small one."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT, read, stack_config
from live_stack import LiveStack, with_backups
from terminal import init_at_a_terminal
from waiting import eventually

from components import PROMETHEUS_CLAIM
from config.stack_file import project_keys, read_config
from ops import recover
from sandbox.build import Tools
from sandbox.cluster import Node

STACK = "example-two-nodes"
NODES = [
    Node(name=name, cpus=node.cpus, memory=node.memory, address=node.address)
    for name, node in read(stack_config(STACK)).nodes.items()
]
PLACED = {
    "ollama": {"large"},
    "ollama-models": {"large"},
    "open-webui": {"small"},
    # The release kube-prom-stack.
    "alertmanager": {"small"},
    "grafana": {"small"},
    "kube-prometheus-stack-prometheus-operator": {"small"},
    "kube-state-metrics": {"small"},
    "prometheus": {"small"},
    "prometheus-node-exporter": {"large", "small"},
}


@pytest.fixture(scope="module")
def live_stack(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The example, up on two simulated machines."""
    folder = tmp_path_factory.mktemp("two-nodes")
    live_stack = LiveStack(folder, tools, stack=STACK, nodes=NODES)
    yield live_stack
    live_stack.cluster.remove()


def placed(live_stack: LiveStack) -> dict[str, set[str]]:
    """Return the nodes of every pod in the stack's namespaces, by application."""
    nodes: dict[str, set[str]] = {}
    for namespace in ("ollama-stack", "observability"):
        for pod in live_stack.pods(namespace):
            name = pod.metadata.labels["app.kubernetes.io/name"]
            nodes.setdefault(name, set()).add(pod.spec.node_name)
    return nodes


def uids(live_stack: LiveStack) -> dict[str, str]:
    """Return the UIDs of the volumes, claims, Services, Secrets, Deployments and Jobs."""
    core = live_stack.core
    objects = [
        *core.list_persistent_volume().items,
        *core.list_persistent_volume_claim_for_all_namespaces().items,
        *core.list_namespaced_service("ollama-stack").items,
        *core.list_namespaced_secret("ollama-stack").items,
        *live_stack.apps.list_namespaced_deployment("ollama-stack").items,
        *live_stack.batch.list_namespaced_job("ollama-stack").items,
    ]
    return {f"{type(item).__name__} {item.metadata.name}": item.metadata.uid for item in objects}


def bound(live_stack: LiveStack) -> dict[str, tuple[str, str]]:
    """Return directory and node of the volume of each bound claim."""
    nodes = {}
    for volume in live_stack.core.list_persistent_volume().items:
        (term,) = volume.spec.node_affinity.required.node_selector_terms
        ((nodes[volume.metadata.name],),) = [match.values for match in term.match_expressions]
    return {
        claim.partition("/")[2]: (directory, nodes[volume])
        for claim, (volume, directory) in live_stack.bound().items()
    }


def test_every_pod_is_on_the_node_that_the_stack_file_names(live_stack: LiveStack) -> None:
    sizes = {
        node.metadata.name: (node.status.allocatable["cpu"], node.status.allocatable["memory"])
        for node in live_stack.core.list_node().items
    }

    assert sizes == {"large": ("24", "93Gi"), "small": ("4", "16Gi")}
    assert eventually(lambda: placed(live_stack) == PLACED), placed(live_stack)


def test_every_claim_is_bound_to_a_directory_on_the_node_of_its_pod(live_stack: LiveStack) -> None:
    assert bound(live_stack) == {
        "models": ("/mnt/models/ollama", "large"),
        "open-webui": ("/mnt/data/open-webui", "small"),
        PROMETHEUS_CLAIM: ("/mnt/data/prometheus", "small"),
    }


def test_a_pod_without_node_selector_is_scheduled_on_the_node_of_its_volume(
    live_stack: LiveStack,
) -> None:
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    nodes = {}
    claims = (("ollama-stack", "models"), ("observability", PROMETHEUS_CLAIM))
    for namespace, claim in claims:
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
        container = {"name": "follower", "image": "follower", "securityContext": security}
        spec = {"containers": [container], "volumes": [volume]}
        live_stack.core.create_namespaced_pod(
            namespace, {"metadata": {"name": "follower"}, "spec": spec}
        )

        def node(namespace: str = namespace) -> Any:
            return live_stack.core.read_namespaced_pod("follower", namespace).spec.node_name

        nodes[claim] = eventually(node)
        live_stack.core.delete_namespaced_pod("follower", namespace)

    assert nodes == {"models": "large", PROMETHEUS_CLAIM: "small"}


def test_adding_and_removing_a_second_server_replaces_nothing(live_stack: LiveStack) -> None:
    volume = {"path": "/mnt/data/models", "size": "50Gi"}
    server = {"node": "small", "cpu": 1, "volume": volume, "models": ["llama3.2:1b"]}
    server["memory"] = {"request": "4Gi", "limit": "5Gi"}
    live_stack.edit(lambda keys: keys.update({"homelab:servers": {"more": server}}))
    before = uids(live_stack)

    added = live_stack.up()
    assert added.keys() == {"create", "update"}
    more = {"ollama-more": {"small"}, "ollama-more-models": {"small"}}
    assert eventually(lambda: placed(live_stack) == {**PLACED, **more}), placed(live_stack)
    assert bound(live_stack)["models-more"] == ("/mnt/data/models", "small")
    assert before.items() <= uids(live_stack).items()

    live_stack.reset()
    assert live_stack.up() == {"delete": added["create"], "update": added["update"]}
    assert eventually(lambda: placed(live_stack) == PLACED), placed(live_stack)
    assert uids(live_stack) == before


def run_as_described(live_stack: LiveStack, tools: Tools, commands: str) -> None:
    """Run the commands of kubectl in docs/disks.md that begin so."""
    kubectl = [str(tools.program("kube")), "kubectl"]
    kubectl.append(f"--kubeconfig={live_stack.cluster.kubeconfig}")
    lines = re.findall(rf"`kubectl ({commands} .+?)`", (ROOT / "docs/disks.md").read_text())
    assert lines
    for line in lines:
        subprocess.run([*kubectl, *line.split()], check=True, capture_output=True)


def test_moving_the_chat_page_to_another_node_replaces_only_its_volumes_claims_and_pods(
    live_stack: LiveStack, tools: Tools
) -> None:
    live_stack.edit(with_backups)
    live_stack.up()
    batch, namespace = live_stack.batch, "ollama-stack"
    cron_job = batch.read_namespaced_cron_job("open-webui-backup", namespace)
    template = batch.api_client.sanitize_for_serialization(cron_job)["spec"]["jobTemplate"]
    batch.create_namespaced_job(namespace, {**template, "metadata": {"name": "by-hand"}})
    assert eventually(lambda: batch.read_namespaced_job("by-hand", namespace).status.succeeded == 1)
    run_as_described(live_stack, tools, "-n ollama-stack delete pods")
    volume = {"path": "/mnt/models/open-webui", "size": "100Gi"}
    live_stack.edit(lambda keys: keys["homelab:webui"].update({"node": "large", "volume": volume}))

    assert live_stack.up() == {"replace": 6, "update": 2}
    moved = {**PLACED, "open-webui": {"large"}, "open-webui-backup": {"large"}}
    assert eventually(lambda: placed(live_stack) == moved), placed(live_stack)
    assert bound(live_stack)["open-webui"] == ("/mnt/models/open-webui", "large")


def test_prometheus_moves_once_its_claim_is_deleted(
    live_stack: LiveStack, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion of its volume would wait for the claim, which is the operator's."""
    # A server's `up` does not free the volume for the new claim.
    monkeypatch.setattr(recover, "repair_cluster", lambda *_: None)
    assert eventually(lambda: PROMETHEUS_CLAIM in bound(live_stack))
    run_as_described(live_stack, tools, "-n observability")
    volume = {"path": "/mnt/models/prometheus", "size": "50Gi"}
    keys = live_stack.edit(dict)
    keys["homelab:nodes"]["large"]["disk"]["size"] = "1Ti"
    keys["homelab:observability"].update({"node": "large", "volume": volume})
    live_stack.edit(lambda old: old.update(keys))

    assert live_stack.up()["replace"] == 1
    assert eventually(lambda: placed(live_stack)["prometheus"] == {"large"}), placed(live_stack)
    assert eventually(
        lambda: bound(live_stack)[PROMETHEUS_CLAIM] == ("/mnt/models/prometheus", "large")
    )


def test_make_init_asks_for_each_of_two_machines(live_stack: LiveStack, tmp_path: Path) -> None:
    disks = ["/mnt/fast", "1000Gi", "DDR5-5600", "/mnt/small", "100Gi", "unknown"]
    network = ["", "192.168.1.101-192.168.1.102", "me@example.com"]

    code, screen = init_at_a_terminal(
        live_stack.cluster, tmp_path, ["n", *disks, *network, "none", "none", "", "y", "n"]
    )

    assert code == 0, screen
    settings = read(project_keys(read_config(tmp_path / "Pulumi.new.yaml")))
    assert list(settings.nodes) == ["large", "small"]
    assert [node.disk.path for node in settings.nodes.values()] == ["/mnt/fast", "/mnt/small"]
    assert settings.node_of(settings.ollama) == "large"
