"""The program itself, applied by the real engine to a real API server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house_lab import House, addresses, quiet
from kill_lab import HELM, Run, held
from kubernetes.client import ApiException
from pulumi.automation import CommandError
from waiting import eventually

from sandbox.build import Tools
from sandbox.engine import PROJECT, Engine
from sandbox.processes import SandboxError
from sandbox.report import report

TWO_STORAGES = """
from pulumi import ResourceOptions
from pulumi_kubernetes import Provider
from components import LocalStorage

cluster = Provider("cluster", context="homelab-sandbox", kubeconfig="", cluster_identifier="two")
on_cluster = ResourceOptions(provider=cluster)
for owner in ("one", "two"):
    volume = {"size": "10Gi", "namespace": owner, "node": "evo4t"}
    LocalStorage(
        owner,
        {
            "volumes": {
                "data": {**volume, "path": f"/mnt/evo4t/{owner}/data"},
                "late": {**volume, "path": f"/mnt/evo4t/{owner}/late", "claim": "made-by-another"},
            },
            "namespaces": {owner: "restricted"},
            "class_name": f"local-{owner}",
        },
        on_cluster,
    )
"""


@pytest.fixture(autouse=True)
def as_in_the_project(house: House) -> Iterator[None]:
    """Leave the stack file as it was found."""
    yield
    house.reset()


def test_every_claim_is_bound_to_its_own_volume(house: House) -> None:
    assert house.bound() == {
        "ollama-stack/models": ("ollama-stack-models", "/mnt/evo4t/models"),
        "ollama-stack/open-webui": ("ollama-stack-open-webui", "/mnt/evo4t/open-webui"),
    }


def test_both_addresses_are_exactly_as_configured(house: House) -> None:
    assert addresses(house.core) == {
        "open-webui-service-local": ["192.168.1.101"],
        "grafana-external": ["192.168.1.102"],
    }


def test_every_pod_is_scheduled_on_the_node_of_the_house(house: House) -> None:
    pods = house.core.list_namespaced_pod("ollama-stack").items

    assert {pod.spec.node_name for pod in pods} == {"evo4t"}
    assert {pod.status.phase for pod in pods} == {"Running", "Succeeded"}
    assert len(pods) == 3
    (node,) = house.core.list_node().items
    assert node.status.capacity["cpu"] == "24"


def test_every_file_of_the_state_is_written_at_once(house: House) -> None:
    # As the sidecars of the CLI's own choice are not: one that was cut off is "EOF" for ever.
    state = [path for path in (house.cluster.folder / "engine/state").rglob("*") if path.is_file()]
    assert any(path.name == "sandbox.json" for path in state)
    assert [path for path in state if path.suffix == ".attrs"] == []


def test_what_a_full_disk_has_cut_off_is_read_again(house: House) -> None:
    before = house.engine.outputs()
    (state,) = (house.cluster.folder / "engine/state").rglob("sandbox.json")
    state.write_bytes(state.read_bytes()[:100])
    lock = house.cluster.folder / "engine/state/.pulumi/locks/organization/x.json.1.tmp"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()

    # One step earlier the stack had no outputs yet.
    assert house.up() == {}
    assert house.engine.outputs() == before
    assert not lock.exists()


def test_a_first_up_never_hangs(house: House) -> None:
    # It takes ten seconds; a claim that is waited for in vain takes five minutes.
    assert house.first_up < 60


def test_a_second_up_changes_nothing(house: House) -> None:
    assert house.up() == {}
    assert set(house.engine.preview()) <= {"same", "OpType.SAME"}


def test_a_lost_passphrase_is_one_line_and_no_new_one_is_made(house: House) -> None:
    phrase = house.cluster.folder / "engine" / "passphrase"
    away = phrase.rename(phrase.with_suffix(".away"))
    try:
        with pytest.raises(
            SandboxError, match=r"passphrase: is gone, .*; begin anew .* make down$"
        ):
            house.engine.outputs()
        assert not phrase.exists()
    finally:
        away.rename(phrase)


def test_the_closing_table_shows_the_way_of_the_metrics(house: House) -> None:
    outputs, charts = house.engine.outputs(), house.engine.charts()
    table = report(house.cluster.kubeconfig, house.cluster.context, outputs, charts, "read ")
    metrics = table.partition("\n  metrics")[2]
    rows = dict(line.split(maxsplit=1) for line in metrics.splitlines() if line[:4].strip())

    pushers, _, url = rows["pushed"].partition(" to ")
    assert set(pushers.split(", ")) == {"ollama-stack/gateway", "ollama-stack/open-webui"}
    assert url.endswith(".observability:9090/api/v1/otlp/v1/metrics")
    assert rows["dashboards"] == "AI performance, House, Usage"
    assert re.fullmatch(r"[1-9]\d* alerts of [1-9]\d* rules", rows["rules"])
    assert "none is here" in rows["scraped"]  # the chart is not rendered


def test_no_password_lies_in_the_open(house: House) -> None:
    secret = [str(value) for value, hidden in house.engine.outputs().values() if hidden]
    assert len(secret) == 2

    found = [
        path
        for path in house.cluster.folder.rglob("*")
        # What the API server keeps in etcd is not encrypted, there as on MicroK8s.
        if path.is_file() and "data" not in path.relative_to(house.cluster.folder).parts
        for word in secret
        if word.encode() in path.read_bytes()
    ]
    assert found == []


def test_every_pod_but_the_one_with_the_tailnet_port_is_admitted_as_restricted(
    house: House,
) -> None:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    house.core.create_namespace({"metadata": {"name": "strict", "labels": level}})
    refused = []
    for pod in house.core.list_namespaced_pod("ollama-stack").items:
        spec = house.core.api_client.sanitize_for_serialization(pod.spec)
        # What admission added on the way in.
        kept = ("containers", "initContainers", "securityContext", "volumes")
        spec = {key: spec[key] for key in kept if key in spec}
        try:
            house.core.create_namespaced_pod(
                "strict", {"metadata": {"name": pod.metadata.name}, "spec": spec}, dry_run="All"
            )
        except ApiException as error:
            refused.append((pod.metadata.labels["app.kubernetes.io/name"], error.body))
    house.core.delete_namespace("strict")

    assert [name for name, _ in refused] == ["open-webui"]
    violations = json.loads(str(refused[0][1]))["message"].partition("restricted:latest")[2]
    assert re.findall(r"(\w+) \(", violations) == ["hostPort"]


def test_the_operators_claim_binds_to_the_volume_that_waits_for_it(house: House) -> None:
    (waiting,) = [
        volume
        for volume in house.core.list_persistent_volume().items
        if volume.spec.claim_ref.namespace == "observability"
    ]
    name = waiting.spec.claim_ref.name
    # As Prometheus' operator makes it, but for the volume's name: that it binds without is the
    # stronger proof.
    house.core.create_namespaced_persistent_volume_claim(
        "observability",
        {
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local-path",
                "resources": {"requests": {"storage": "50Gi"}},
            },
        },
    )

    assert eventually(lambda: f"observability/{name}" in house.bound())
    assert house.bound()[f"observability/{name}"] == (
        waiting.metadata.name,
        "/mnt/evo4t/prometheus",
    )


def test_bad_input_is_a_line_for_each_key_and_touches_nothing(house: House) -> None:
    before = house.uids()
    house.edit(lambda keys: keys.update({"homelab:webuii": {"lan_address": "192.168.1.101"}}))
    house.edit(lambda keys: keys["homelab:ollama"]["models"].append("gemma2:4b"))
    lines: list[str] = []

    with pytest.raises(CommandError):
        house.engine.up(lines.append)

    printed = "\n".join(lines)
    assert "homelab:ollama.models[3]: got 'gemma2:4b', want one that" in printed
    assert "homelab:webuii: unknown key, did you mean webui?" in printed
    assert "Traceback" not in printed
    assert house.uids() == before


def test_a_changed_model_list_replaces_only_the_job(house: House) -> None:
    jobs, others = house.jobs(), house.uids()
    house.edit(lambda keys: keys["homelab:ollama"]["models"].append("llama3.2:1b"))

    # The list itself is in the ConfigMap of the Job's program.
    assert house.up() == {"replace": 1, "update": 1}
    assert len(house.jobs()) == 1
    assert house.jobs() != jobs
    assert house.uids() == others


def test_what_was_destroyed_comes_back_on_its_directories_though_the_engine_is_killed(
    house: House, tools: Tools
) -> None:
    before = {at for at in house.bound().items() if at[0].startswith("ollama-stack/")}
    assert len(before) == 2

    house.engine.destroy(quiet)
    assert house.core.list_persistent_volume().items == []
    assert "ollama-stack" not in {n.metadata.name for n in house.core.list_namespace().items}

    with held(house, "CREATE", "secrets", HELM) as hold:
        run = Run(house, tools)
        hold.reached()
        plugins = run.kill(plugins=False)

    # The CLI is dead; its plugins, whose programs are elsewhere, are not.
    house.up()
    assert plugins
    assert [one.name() for one in plugins if one.is_running()] == []
    assert set(house.bound().items()) == before
    assert house.up() == {}


def test_two_stacks_worth_of_volumes_side_by_side_bind_again(
    house: House,
    tools: Tools,
    tmp_path: Path,
) -> None:
    (tmp_path / "Pulumi.yaml").write_text("name: volumes\nruntime: python\n")
    (tmp_path / "Pulumi.volumes.yaml").write_text("config: {}\n")
    path = f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
    (tmp_path / "__main__.py").write_text(path + TWO_STORAGES)
    engine = Engine(house.cluster, tools, tmp_path, "volumes")

    def claim_as_an_operator_does(owner: str) -> None:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": f"local-{owner}",
            "resources": {"requests": {"storage": "10Gi"}},
        }
        body = {"metadata": {"name": "made-by-another"}, "spec": spec}
        house.core.create_namespaced_persistent_volume_claim(owner, body)

    wanted = {
        f"{owner}/{claim}": (f"{owner}-{name}", f"/mnt/evo4t/{owner}/{name}")
        for owner in ("one", "two")
        for claim, name in (("data", "data"), ("made-by-another", "late"))
    }

    def come() -> None:
        engine.up(quiet)
        for owner in ("one", "two"):
            claim_as_an_operator_does(owner)
        assert eventually(lambda: wanted.items() <= house.bound().items())

    come()
    # The claims that nobody here made go with their namespaces, or this would never end.
    engine.destroy(quiet)
    assert not wanted.keys() & house.bound().keys()
    come()
