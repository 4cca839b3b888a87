"""The stand-in under the real engine, against a real API server."""

import base64
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pulumi_kubernetes as k8s
import pulumi_random
import pytest
from kubernetes.client import AppsV1Api
from pulumi import CustomResource, ResourceOptions
from pulumi.automation import CommandError
from stand_in_lab import Body, Lab
from stand_in_programs import deployment, pods, settings, table

from sandbox.build import Tools
from sandbox.cluster import Cluster

CHANGED = 7
"""Exit code of the CLI where `--expect-no-changes` was not true."""


@pytest.fixture
def lab(tmp_path: Path, cluster: Cluster, tools: Tools) -> Iterator[Lab]:
    lab = Lab(tmp_path, cluster, tools, namespace=f"lab-{secrets.token_hex(3)}")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in lab.environment.items():
            patch.setenv(key, value)
        yield lab


@pytest.fixture
def room(lab: Lab) -> Iterator[Lab]:
    """A lab whose namespace is already there."""
    lab.core.create_namespace({"metadata": {"name": lab.namespace}})
    yield lab
    lab.core.delete_namespace(lab.namespace)


def test_everything_comes_stays_and_goes(lab: Lab) -> None:
    resources = 16 + len(("stack", "provider"))

    # Nothing is there yet, not even the namespace: the preview must cope.
    assert lab.stack(table(lab)).preview().change_summary == {"create": resources}
    assert lab.up(table(lab)) == {"create": resources}
    assert lab.up(table(lab)) == {}
    bound = lab.core.list_namespaced_persistent_volume_claim(lab.namespace).items
    assert [claim.spec.volume_name for claim in bound] == [f"{lab.namespace}-{x}" for x in "ab"]
    assert {claim.status.phase for claim in bound} == {"Bound"}
    assert lab.cli("destroy", "--yes", "--skip-preview").returncode == 0


def test_a_hand_edit_and_a_lost_object_are_drift_that_a_refresh_heals(room: Lab) -> None:
    body = settings(room, "edited", "lost", "kept")
    room.up(body)
    change = {"data": {"a": "2", "theirs": "x"}}
    room.core.patch_namespaced_config_map("edited", room.namespace, change, field_manager="kubectl")
    room.core.delete_namespaced_config_map("lost", room.namespace)

    assert room.drift() == CHANGED
    assert room.up(body) == {}, "without a refresh the state is all the engine knows"
    assert room.up(body, refresh=True) == {"update": 1, "create": 1}
    assert room.core.read_namespaced_config_map("edited", room.namespace).data["a"] == "1"


def test_a_field_another_manager_took_is_a_conflict_that_names_it(room: Lab) -> None:
    room.up(settings(room, "taken"))
    change = {"data": {"a": "2"}}
    room.core.patch_namespaced_config_map("taken", room.namespace, change, field_manager="someone")

    said = room.refused(settings(room, "taken"), refresh=True)

    assert 'conflict with "someone"' in said
    assert "pulumi.com/patchForce" in said


def test_an_object_that_already_exists_is_not_taken_over(room: Lab) -> None:
    there = {"metadata": {"name": "settings"}, "data": {"a": "theirs"}}
    room.core.create_namespaced_config_map(room.namespace, there)

    said = room.refused(settings(room, "settings"))

    assert f"ConfigMap {room.namespace}/settings already exists" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metadata": {"namespace": "default"}}, "metadata.name is missing"),
        ({"data": {"a": {"b": "c"}}}, ".data.a: expected string"),
    ],
)
def test_a_preview_refuses(lab: Lab, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        lab.stack(settings(lab, "wrong", **wrong)).preview()


def test_an_unknown_field_is_refused(room: Lab) -> None:
    def body(on: ResourceOptions) -> None:
        metadata = {"name": "typo", "namespace": room.namespace}
        props = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"prts": []}}
        CustomResource("kubernetes:core/v1:Service", "typo", props, on)

    assert ".spec.prts: field not declared in schema" in room.refused(body)


def test_another_context_is_refused(lab: Lab) -> None:
    lab.context = "home"

    assert "only talks to homelab-sandbox, not to 'home'" in lab.refused(settings(lab, "x"))


def test_what_does_not_fit_says_why_and_a_smaller_one_mends_it(room: Lab) -> None:
    said = room.refused(deployment(room, memory="900Gi"))

    assert f"Deployment {room.namespace}/ollama: 0 of 1 replicas ready, gave up after 3 s" in said
    assert "Insufficient memory" in said
    assert room.up(deployment(room, memory="1Gi")) == {"update": 1}


def test_only_what_cannot_be_changed_is_replaced(room: Lab) -> None:
    def body(image: str, value: int) -> Body:
        def make(on: ResourceOptions) -> None:
            settings(room, "settings")(on)
            k8s.batch.v1.Job(
                "pull",
                metadata={"name": "pull", "namespace": room.namespace},
                spec={"template": pods(image, restart_policy="Never")},
                opts=on,
            )
            # In no table of ours: that it cannot change is what the server says.
            k8s.scheduling.v1.PriorityClass(
                "rank", metadata={"name": room.namespace}, value=value, opts=on
            )

        return make

    room.up(body("a", 1))

    assert room.up(body("b", 1)) == {"replace": 1}
    assert room.up(body("b", 2)) == {"replace": 1}


def test_a_password_is_nowhere_in_the_clear(room: Lab) -> None:
    def body(on: ResourceOptions) -> None:
        password = pulumi_random.RandomPassword("password", length=20, special=False)
        k8s.core.v1.Secret(
            "login",
            metadata={"name": "login", "namespace": room.namespace},
            string_data={"password": password.result},
            opts=on,
        )

    room.up(body)
    stored = room.core.read_namespaced_secret("login", room.namespace).data["password"]
    password = base64.b64decode(stored).decode()

    assert re.fullmatch("[A-Za-z0-9]{20}", password)
    assert room.up(body) == {}
    assert room.drift() == 0
    assert [text for text in (password, stored) if text in room.said + room.state()] == []


def test_a_chart_is_recorded_with_a_warning(lab: Lab) -> None:
    def body(level: str) -> Body:
        def make(on: ResourceOptions) -> None:
            k8s.helm.v3.Release(
                "prom",
                name="prom",
                namespace="default",
                chart="kube-prometheus-stack",
                version="88.5.3",
                values={"grafana": {"enabled": True, "level": level}},
                opts=on,
            )

        return make

    lab.up(body("info"))

    assert "prom: the Helm chart is recorded but not rendered" in lab.said
    assert lab.drift() == 0
    assert lab.up(body("debug")) == {"update": 1}


def test_an_engine_killed_outright_leaves_no_plugin_and_a_state_that_can_be_mended(
    room: Lab,
) -> None:
    body = deployment(room, memory="900Gi", seconds=60)
    apps = AppsV1Api(room.core.api_client)

    plugins = room.kill_during(
        body, ready=lambda: bool(apps.list_namespaced_deployment(room.namespace).items)
    )

    assert plugins, "the engine had started one"
    assert psutil.wait_procs(plugins, timeout=3)[1] == []
    assert room.cli("cancel", "--yes").returncode == 0
    known = f"{room.namespace}/ollama"
    assert room.up(deployment(room, memory="900Gi", import_=known)) == {"import": 1}
    assert room.up(body) == {}, "what was imported is what the program had said"
