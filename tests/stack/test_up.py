"""`up` and `destroy` of the program with the real engine and API server."""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from threading import Event, Thread

import pytest
import yaml
from kill_lab import HELM, killed
from kubernetes.client import ApiException
from live_stack import LiveStack, addresses, quiet
from pulumi.automation import CommandError
from waiting import eventually

from components import PROMETHEUS_CLAIM
from sandbox.build import Tools
from sandbox.processes import SandboxError


@pytest.fixture(autouse=True)
def as_in_the_project(live_stack: LiveStack) -> Iterator[None]:
    """Restore the stack file after each test."""
    yield
    live_stack.reset()


def test_every_claim_is_bound_to_its_own_volume(live_stack: LiveStack) -> None:
    assert live_stack.bound() == {
        "ollama-stack/models": ("ollama-stack-models", "/mnt/evo4t/models"),
        "ollama-stack/open-webui": ("ollama-stack-open-webui", "/mnt/evo4t/open-webui"),
        "ollama-stack/backup": ("ollama-stack-backup", "/mnt/backup/homelab"),
        # Created by the Prometheus operator.
        f"observability/{PROMETHEUS_CLAIM}": ("observability-prometheus", "/mnt/evo4t/prometheus"),
    }


def test_metallb_assigns_both_configured_addresses(live_stack: LiveStack) -> None:
    assert addresses(live_stack.core) == {
        "open-webui-service-local": ["192.168.1.101"],
        "grafana-external": ["192.168.1.102"],
    }


def test_every_pod_runs_on_the_node_of_the_stack_file(live_stack: LiveStack) -> None:
    pods = [pod for name in ("ollama-stack", "observability") for pod in live_stack.pods(name)]

    assert {pod.spec.node_name for pod in pods} == {"evo4t"}
    assert {pod.status.phase for pod in pods} == {"Running", "Succeeded"}
    assert {pod.metadata.labels["app.kubernetes.io/name"] for pod in pods} == {
        "alertmanager",
        "grafana",
        "kube-prometheus-stack-prometheus-operator",
        "kube-state-metrics",
        "ollama",
        "ollama-models",
        "open-webui",
        "open-webui-backup",
        "prometheus",
        "prometheus-node-exporter",
    }
    (node,) = live_stack.core.list_node().items
    assert node.status.capacity["cpu"] == "24"


def test_the_state_has_no_attrs_files(live_stack: LiveStack) -> None:
    # The CLI writes these by default; after a kill, a truncated one makes every run fail with EOF.
    state = [
        path for path in (live_stack.cluster.folder / "engine/state").rglob("*") if path.is_file()
    ]
    assert any(path.name == "sandbox.json" for path in state)
    assert [path for path in state if path.suffix == ".attrs"] == []


def test_a_truncated_state_is_restored_from_its_backup(live_stack: LiveStack) -> None:
    before = live_stack.engine.outputs()
    (state,) = (live_stack.cluster.folder / "engine/state").rglob("sandbox.json")
    state.write_bytes(state.read_bytes()[:100])
    lock = live_stack.cluster.folder / "engine/state/.pulumi/locks/organization/x.json.1.tmp"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()

    assert live_stack.up() == {}
    assert set(live_stack.engine.preview()) <= {"same", "OpType.SAME"}
    assert live_stack.engine.outputs() == before
    assert not lock.exists()


def test_a_first_up_never_hangs(live_stack: LiveStack) -> None:
    # It takes 10 s; the provider would wait 300 s for a claim that was bound too soon.
    assert live_stack.first_up < 240


def test_a_lost_passphrase_is_one_line_and_no_new_one_is_made(live_stack: LiveStack) -> None:
    passphrase = live_stack.cluster.folder / "engine" / "passphrase"
    moved = passphrase.rename(passphrase.with_suffix(".away"))
    try:
        with pytest.raises(
            SandboxError, match=r"passphrase: is gone, .*; start over .* make down$"
        ):
            live_stack.engine.outputs()
        assert not passphrase.exists()
    finally:
        moved.rename(passphrase)


def test_no_password_is_in_a_file_of_the_cluster_in_clear(live_stack: LiveStack) -> None:
    secret = [str(value) for value, hidden in live_stack.engine.outputs().values() if hidden]
    assert len(secret) == 3

    files = [
        path
        for path in live_stack.cluster.folder.rglob("*")
        # etcd is not encrypted, as on MicroK8s.
        if path.is_file() and "data" not in path.relative_to(live_stack.cluster.folder).parts
        for word in secret
        if word.encode() in path.read_bytes()
    ]
    assert files == []


def test_only_the_pod_with_the_tailnet_port_violates_restricted(
    live_stack: LiveStack,
) -> None:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    live_stack.core.create_namespace({"metadata": {"name": "strict", "labels": level}})
    refused = []
    for pod in live_stack.core.list_namespaced_pod("ollama-stack").items:
        spec = live_stack.core.api_client.sanitize_for_serialization(pod.spec)
        # Without the fields that admission added.
        fields = ("containers", "initContainers", "securityContext", "volumes")
        spec = {key: spec[key] for key in fields if key in spec}
        try:
            live_stack.core.create_namespaced_pod(
                "strict", {"metadata": {"name": pod.metadata.name}, "spec": spec}, dry_run="All"
            )
        except ApiException as error:
            refused.append((pod.metadata.labels["app.kubernetes.io/name"], error.body))
    live_stack.core.delete_namespace("strict")

    assert [name for name, _ in refused] == ["open-webui"]
    violations = json.loads(str(refused[0][1]))["message"].partition("restricted:latest")[2]
    assert re.findall(r"(\w+) \(", violations) == ["hostPort"]


def test_a_larger_prometheus_volume_changes_retention_and_keeps_the_claim(
    live_stack: LiveStack,
) -> None:
    name, namespace = "prometheus-kube-prom-stack", "observability"
    before = live_stack.bound()

    def sizes() -> tuple[str, str]:
        packed = live_stack.core.read_namespaced_secret(name, namespace).data["prometheus.yaml.gz"]
        config = yaml.safe_load(gzip.decompress(base64.b64decode(packed)))
        spec = live_stack.apps.read_namespaced_stateful_set(name, namespace).spec
        (claim,) = spec.volume_claim_templates
        return (
            claim.spec.resources.requests["storage"],
            config["storage"]["tsdb"]["retention"]["size"],
        )

    assert sizes() == ("50Gi", "40960MiB")
    live_stack.edit(lambda keys: keys["homelab:observability"]["volume"].update(size="60Gi"))

    # The volume and the release.
    assert live_stack.up() == {"update": 2}
    assert eventually(lambda: sizes() == ("60Gi", "49152MiB")), sizes()
    assert live_stack.bound() == before
    live_stack.reset()
    assert live_stack.up() == {"update": 2}


def test_invalid_settings_are_one_line_each_and_change_nothing(live_stack: LiveStack) -> None:
    before = live_stack.uids()
    live_stack.edit(lambda keys: keys.update({"homelab:webuii": {"lan_address": "192.168.1.101"}}))
    live_stack.edit(lambda keys: keys["homelab:ollama"]["models"].append("gemma2:4b"))
    lines: list[str] = []

    with pytest.raises(CommandError):
        live_stack.engine.up(lines.append)

    printed = "\n".join(lines)
    assert "homelab:ollama.models[3]: got 'gemma2:4b', want a model of" in printed
    assert "homelab:webuii: unknown key, did you mean webui?" in printed
    assert "Traceback" not in printed
    assert live_stack.uids() == before


def test_a_changed_model_list_replaces_only_the_model_job(live_stack: LiveStack) -> None:
    jobs, uids = live_stack.jobs(), live_stack.uids()
    live_stack.edit(lambda keys: keys["homelab:ollama"]["models"].append("llama3.2:1b"))

    # The update is the ConfigMap, which has the list.
    assert live_stack.up() == {"replace": 1, "update": 1}
    assert len(live_stack.jobs()) == 1
    assert live_stack.jobs() != jobs
    assert live_stack.uids() == uids


def fail(live_stack: LiveStack, pod: str, log: str) -> None:
    """Set a pod's status to that of one whose last container has failed with this log.

    tests/workloads/test_backup_steps.py proves that the last one fails, whichever step failed.
    """
    spec = live_stack.core.read_namespaced_pod(pod, "ollama-stack").spec
    (container,) = spec.containers
    # By default the kubelet reads the message from a file, which these programs do not write.
    logs = container.termination_message_policy == "FallbackToLogsOnError"
    ends = [
        (container_, {"exitCode": 0, "reason": "Completed"})
        for container_ in spec.init_containers or []
    ] + [(container, {"exitCode": 1, "reason": "Error", "message": log if logs else ""})]
    *init, ended = [
        {
            "name": container_.name,
            "image": container_.image,
            "imageID": "",
            "ready": not terminated["exitCode"],
            "restartCount": 0,
            "state": {"terminated": terminated},
        }
        for container_, terminated in ends
    ]
    true = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized")]
    ready = {"type": "Ready", "status": "False", "reason": "PodFailed"}
    status = {
        "phase": "Failed",
        "conditions": [*true, ready],
        "initContainerStatuses": init,
        "containerStatuses": [ended],
    }
    live_stack.core.patch_namespaced_pod_status(pod, "ollama-stack", {"status": status})


def failed_up(live_stack: LiveStack, logs: dict[str, str]) -> str:
    """Run an `up` in which a new pod of each of these names fails with its log.

    Returns the output of `up`.
    """

    def pods() -> dict[str, tuple[str, str]]:
        return {
            pod.metadata.name: (pod.metadata.labels["app.kubernetes.io/name"], pod.status.phase)
            for pod in live_stack.pods("ollama-stack")
        }

    before = pods()
    lines: list[str] = []
    # The simulated kubelet must not run these pods.
    live_stack.core.patch_node("evo4t", {"spec": {"unschedulable": True}})
    stopped = Event()

    def kubelet() -> None:
        while not stopped.wait(0.2):
            new = [
                (pod, name)
                for pod, (name, phase) in pods().items()
                if pod not in before and name in logs and phase == "Pending"
            ]
            # All at once, because `up` creates nothing more after the first failure.
            if {name for _, name in new} == set(logs):
                for pod, name in new:
                    fail(live_stack, pod, logs[name])

    thread = Thread(target=kubelet)
    thread.start()
    try:
        with pytest.raises(CommandError):
            live_stack.engine.up(lines.append)
    finally:
        stopped.set()
        thread.join()
        live_stack.core.patch_node("evo4t", {"spec": {"unschedulable": None}})
    return "\n".join(lines)


def test_a_failed_job_makes_up_print_its_last_line(live_stack: LiveStack) -> None:
    models = "error: llama3.2:9b: pull model manifest: file does not exist"
    backup = "Fatal: wrong password or no key found"
    image = {"image": "ghcr.io/open-webui/open-webui:v99.0.0"}
    live_stack.edit(lambda keys: keys["homelab:ollama"]["models"].append("qwen2.5:0.5b"))
    live_stack.edit(lambda keys: keys["homelab:webui"].update(image))

    printed = failed_up(
        live_stack,
        {"ollama-models": f"llama3.2:3b: there\n{models}\n", "open-webui-backup": f"{backup}\n"},
    )

    assert models in printed
    assert backup in printed
    page = live_stack.apps.read_namespaced_deployment(
        "open-webui", "ollama-stack"
    ).spec.template.spec
    assert not page.containers[0].image.endswith(":v99.0.0")
    live_stack.reset()
    live_stack.up()


def test_after_destroy_and_a_killed_up_the_claims_bind_to_the_same_directories(
    live_stack: LiveStack, tools: Tools
) -> None:
    before = live_stack.bound()
    assert len(before) == 4

    live_stack.engine.destroy(quiet)
    assert live_stack.core.list_persistent_volume().items == []
    assert "ollama-stack" not in {n.metadata.name for n in live_stack.core.list_namespace().items}

    plugins = killed(live_stack, tools, "up", "CREATE", "secrets", HELM, plugins=False)

    # Only the CLI was killed: the next `up` ends its plugins.
    live_stack.up()
    assert plugins
    assert [plugin.name() for plugin in plugins if plugin.is_running()] == []
    assert eventually(lambda: live_stack.bound() == before), live_stack.bound()
    assert live_stack.up() == {}


@pytest.mark.faults
def test_after_deleting_a_namespace_the_claims_bind_to_the_same_directories(
    live_stack: LiveStack,
) -> None:
    before = live_stack.bound()
    live_stack.core.delete_namespace("ollama-stack")
    assert eventually(
        lambda: (
            "ollama-stack"
            not in {item.metadata.name for item in live_stack.core.list_namespace().items}
        )
    )

    live_stack.up()

    assert eventually(lambda: live_stack.bound() == before), live_stack.bound()
    assert live_stack.up() == {}
