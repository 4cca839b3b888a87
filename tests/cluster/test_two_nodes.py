"""The example of two machines: models on the large one, the rest on the small one."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import deploy_program, deployed, read, stack_config
from kubernetes import client
from kubernetes import config as kubeconfig
from terminal import init_at_a_terminal
from waiting import eventually

from components import PROMETHEUS_CLAIM
from config import SettingsError
from config.stack_file import project_keys, read_config
from sandbox.build import Tools
from sandbox.cluster import Cluster, Node
from sandbox.engine import PROJECT, Engine

STACK = "example-two-nodes"
NODES = [
    Node(name=name, cpus=node.cpus, memory=node.memory, address=node.address)
    for name, node in read(stack_config(STACK)).nodes.items()
]
PLACED = {
    "ollama": {"large"},
    "ollama-models": {"large"},
    "open-webui": {"small"},
    # Of the release.
    "alertmanager": {"small"},
    "grafana": {"small"},
    "kube-prometheus-stack-prometheus-operator": {"small"},
    "kube-state-metrics": {"small"},
    "prometheus": {"small"},
    "prometheus-node-exporter": {"large", "small"},
}


class TwoNodes:
    """The example, up on two simulated machines, in a folder where its stack file may be edited."""

    def __init__(self, folder: Path, cluster: Cluster, tools: Tools) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        for name in ("Pulumi.yaml", f"Pulumi.{STACK}.yaml"):
            (self.project / name).write_text((PROJECT / name).read_text())
        (self.project / "__main__.py").write_text(
            f"import runpy, sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
            f"runpy.run_path({str(PROJECT / '__main__.py')!r}, run_name='__main__')\n"
        )
        cluster.start(NODES)
        self.engine = Engine(cluster, tools, self.project, STACK)
        self.up()
        path = str(cluster.kubeconfig)
        api = kubeconfig.new_client_from_config(path, cluster.context)  # type: ignore[no-untyped-call]
        # The client's types say of every field that it may be missing.
        self.core: Any = client.CoreV1Api(api)

    def up(self) -> dict[str, int]:
        """Apply the program; give the operations, less what stayed the same."""
        changes = self.engine.up(lambda _: None)
        changes.pop("same", None)
        return changes

    def placed(self) -> dict[str, set[str]]:
        """Give the nodes of every pod in the stack's namespaces, by application."""
        nodes: dict[str, set[str]] = {}
        for namespace in ("ollama-stack", "observability"):
            for pod in self.core.list_namespaced_pod(namespace).items:
                name = pod.metadata.labels["app.kubernetes.io/name"]
                nodes.setdefault(name, set()).add(pod.spec.node_name)
        return nodes

    def uids(self) -> dict[str, str]:
        """Give what Kubernetes knows each of the stack's objects that hold or run something by."""
        apps, batch = (
            client.AppsV1Api(self.core.api_client),
            client.BatchV1Api(self.core.api_client),
        )
        found = [
            *self.core.list_persistent_volume().items,
            *self.core.list_persistent_volume_claim_for_all_namespaces().items,
            *self.core.list_namespaced_service("ollama-stack").items,
            *self.core.list_namespaced_secret("ollama-stack").items,
            *apps.list_namespaced_deployment("ollama-stack").items,
            *batch.list_namespaced_job("ollama-stack").items,
        ]
        return {f"{type(it).__name__} {it.metadata.name}": it.metadata.uid for it in found}

    def bound(self) -> dict[str, tuple[str, str]]:
        """Give directory and node of the volume that each bound claim has."""
        at = {}
        for volume in self.core.list_persistent_volume().items:
            (term,) = volume.spec.node_affinity.required.node_selector_terms
            ((node,),) = [match.values for match in term.match_expressions]
            at[volume.metadata.name] = (volume.spec.local.path, node)
        return {
            claim.metadata.name: at[claim.spec.volume_name]
            for claim in self.core.list_persistent_volume_claim_for_all_namespaces().items
            if claim.status.phase == "Bound"
        }


@pytest.fixture(scope="module")
def live_stack(
    cluster: Cluster, tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> TwoNodes:
    """The example, up, on the nodes that it is for: no other test uses the cluster after it."""
    return TwoNodes(tmp_path_factory.mktemp("two-nodes"), cluster, tools)


def test_every_pod_is_on_the_node_that_the_stack_file_names(live_stack: TwoNodes) -> None:
    sizes = {
        node.metadata.name: (node.status.allocatable["cpu"], node.status.allocatable["memory"])
        for node in live_stack.core.list_node().items
    }

    assert sizes == {"large": ("24", "93Gi"), "small": ("4", "16Gi")}
    assert eventually(lambda: live_stack.placed() == PLACED), live_stack.placed()


def test_every_claim_is_bound_to_a_directory_of_its_pods_node(live_stack: TwoNodes) -> None:
    assert live_stack.bound() == {
        "models": ("/mnt/models/ollama", "large"),
        "open-webui": ("/mnt/data/open-webui", "small"),
        PROMETHEUS_CLAIM: ("/mnt/data/prometheus", "small"),
    }


def test_a_pod_that_names_no_node_follows_its_volume(live_stack: TwoNodes) -> None:
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    followed = {}
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

        followed[claim] = eventually(node)
        live_stack.core.delete_namespaced_pod("follower", namespace)

    assert followed == {"models": "large", PROMETHEUS_CLAIM: "small"}


def test_a_second_server_comes_and_goes_and_replaces_nothing(live_stack: TwoNodes) -> None:
    path = live_stack.project / f"Pulumi.{STACK}.yaml"
    text = path.read_text()
    stack = yaml.safe_load(text)
    volume = {"path": "/mnt/data/models", "size": "50Gi"}
    server = {"node": "small", "cpu": 1, "volume": volume, "models": ["llama3.2:1b"]}
    memory = {"request": "4Gi", "limit": "5Gi"}
    stack["config"]["homelab:servers"] = {"more": {**server, "memory": memory}}
    path.write_text(yaml.safe_dump(stack))
    before = live_stack.uids()

    added = live_stack.up()
    assert added.keys() == {"create", "update"}
    more = {"ollama-more": {"small"}, "ollama-more-models": {"small"}}
    assert eventually(lambda: live_stack.placed() == {**PLACED, **more}), live_stack.placed()
    assert live_stack.bound()["models-more"] == ("/mnt/data/models", "small")
    assert before.items() <= live_stack.uids().items()

    path.write_text(text)
    assert live_stack.up() == {"delete": added["create"], "update": added["update"]}
    assert eventually(lambda: live_stack.placed() == PLACED), live_stack.placed()
    assert live_stack.uids() == before


def test_a_part_moves_to_the_other_node_with_an_empty_directory_of_its_own(
    live_stack: TwoNodes,
) -> None:
    path = live_stack.project / f"Pulumi.{STACK}.yaml"
    stack = yaml.safe_load(path.read_text())
    volume = {"path": "/mnt/models/open-webui", "size": "100Gi"}
    stack["config"]["homelab:webui"] |= {"node": "large", "volume": volume}
    path.write_text(yaml.safe_dump(stack))

    # And nothing of the other parts.
    assert live_stack.up() == {"replace": len(("volume", "claim", "Deployment"))}
    moved = {**PLACED, "open-webui": {"large"}}
    assert eventually(lambda: live_stack.placed() == moved), live_stack.placed()
    assert live_stack.bound()["open-webui"] == ("/mnt/models/open-webui", "large")


def test_a_new_node_alone_touches_no_volume() -> None:
    config = stack_config(STACK)
    disk = {"path": "/mnt/spare", "size": "100Gi"}
    config["nodes"]["spare"] = {
        "address": "192.168.1.98",
        "cpus": 4,
        "memory": "16Gi",
        "disk": disk,
    }
    before, after = deployed(STACK).resources, deploy_program(STACK, config).resources

    assert {key.partition("::")[2] for key in after if after[key] != before.get(key)} == {
        "open-webui-policy",
        "open-webui-deployment",  # a browser may open the page by the node's name
        "monitoring-server-dashboard",
        "monitoring-disk-alerts",
    }


def test_a_part_that_is_too_large_for_its_node_is_refused() -> None:
    config = stack_config(STACK)
    config["ollama"] |= {"node": "small", "volume": {"path": "/mnt/data/models", "size": "50Gi"}}

    with pytest.raises(SettingsError, match=r"^homelab:nodes.small.memory: got '16Gi'"):
        read(config)


def test_make_init_asks_for_each_of_two_machines(
    live_stack: TwoNodes, cluster: Cluster, tmp_path: Path
) -> None:
    assert live_stack
    disks = ["/mnt/fast", "1000Gi", "DDR5-5600", "/mnt/small", "100Gi", "unknown"]
    network = ["", "192.168.1.101-192.168.1.102", "me@example.com"]

    code, screen = init_at_a_terminal(
        cluster, tmp_path, ["n", *disks, *network, "none", "", "y", "n"]
    )

    assert code == 0, screen
    settings = read(project_keys(read_config(tmp_path / "Pulumi.new.yaml")))
    assert list(settings.nodes) == ["large", "small"]
    assert [node.disk.path for node in settings.nodes.values()] == ["/mnt/fast", "/mnt/small"]
    assert settings.node_of(settings.ollama) == "large"
