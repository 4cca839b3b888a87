"""What the stand-in takes for a change, and what of it for a replacement; no cluster needed."""

import base64
from pathlib import Path
from typing import Any

import pytest
from pulumi.runtime.proto.provider_pb2 import CheckRequest, DiffRequest

from sandbox.stand_in import diff, wire
from sandbox.stand_in.base import Change, differences
from sandbox.stand_in.kubernetes import Kubernetes


def obj(kind: str, version: str = "v1", **rest: Any) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "n", "uid": "1"}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def texts(old: Any, new: Any) -> list[str]:
    return [f"{change.kind} {change.text}" for change in diff.changes(old, new)]


def replaced(old: dict[str, Any], new: dict[str, Any], *mutable: str) -> list[str]:
    found = diff.marked(diff.changes(old, new), diff.immutable(new, old, mutable))
    return [change.text for change in found if change.replaces]


def test_each_changed_property_is_named_by_its_path() -> None:
    old = {"spec": {"ports": [{"port": 1}], "gone": 1}, "labels": {"a/b": "1"}}
    new = {"spec": {"ports": [{"port": 2}, {"port": 3}]}, "labels": {"a/b": "2"}}

    assert texts(old, new) == [
        "UPDATE spec.ports[0].port",
        "ADD spec.ports[1]",
        "DELETE spec.gone",
        'UPDATE labels["a/b"]',
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"resources": {"limits": {"cpu": "1"}}}, {"resources": {"limits": {"cpu": "1000m"}}}),
        ({"capacity": {"storage": "1Gi"}}, {"capacity": {"storage": "1024Mi"}}),
        ({"requests": {"cpu": 1}}, {"requests": {"cpu": "1"}}),
        ({}, {"args": [], "env": None}),
        ({"args": []}, {}),
    ],
)
def test_the_same_thing_written_differently_is_no_change(old: Any, new: Any) -> None:
    assert texts(old, new) == []


def test_an_empty_selector_is_a_change_because_it_selects_everything() -> None:
    assert texts({"from": {}}, {"from": {"namespaceSelector": {}}}) == [
        "ADD from.namespaceSelector"
    ]


@pytest.mark.parametrize(
    ("text", "number"), [("500m", "0.5"), ("2Ki", "2048"), ("1k", "1000"), ("1e3", "1000")]
)
def test_a_quantity_has_one_value(text: str, number: str) -> None:
    assert str(diff.quantity(text).normalize()) == str(diff.quantity(number).normalize())


def test_pruning_forgets_what_the_program_never_said() -> None:
    live = {"spec": {"replicas": 1, "type": "x", "ports": [{"port": 1, "protocol": "TCP"}, {}]}}
    shape = {"spec": {"type": "y", "ports": [{"port": 2}], "absent": 1, "hostNetwork": False}}

    assert diff.prune(live, shape) == {
        "spec": {"type": "x", "ports": [{"port": 1}], "hostNetwork": False}
    }


def test_a_string_data_is_the_data_it_becomes() -> None:
    clear = obj("Secret", stringData={"a": "1"})

    assert diff.canonical(clear) == obj("Secret", data={"a": base64.b64encode(b"1").decode()})


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("StorageClass storage.k8s.io/v1", "provisioner"),
        ("StorageClass storage.k8s.io/v1", "reclaimPolicy"),
        ("PersistentVolume v1", "spec.local.path"),
        ("PersistentVolumeClaim v1", "spec.storageClassName"),
        ("StatefulSet apps/v1", "spec.serviceName"),
        ("Deployment apps/v1", "spec.selector.matchLabels.app"),
        ("Job batch/v1", "spec.template.spec.image"),
        ("Service v1", "spec.clusterIP"),
        ("ConfigMap v1", "data.a"),
        ("Secret v1", "type"),
        ("RoleBinding rbac.authorization.k8s.io/v1", "roleRef.name"),
        ("CronJob batch/v1", "metadata.namespace"),
    ],
)
def test_only_a_new_object_can_have_another(kind: str, path: str) -> None:
    name, version = kind.split()
    old, new = obj(name, version), obj(name, version)
    for side, value in ((old, "1"), (new, "2")):
        *parents, last = path.split(".")
        place = side
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value

    assert replaced(old, new) == [path]


def test_a_claim_grows_in_place() -> None:
    small, large = (
        obj("PersistentVolumeClaim", spec={"resources": {"requests": {"storage": size}}})
        for size in ("1Gi", "2Gi")
    )

    assert replaced(small, large) == []


@pytest.mark.parametrize(("immutable", "expected"), [(False, []), (True, ["data.a"])])
def test_a_mutable_map_is_replaced_only_if_it_says_so(immutable: bool, expected: list[str]) -> None:
    old, new = (obj("ConfigMap", data={"a": x}, immutable=immutable) for x in "12")

    assert replaced(old, new, "ConfigMap") == expected


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("spec", True),
        ("spec.ports[0].port", True),
        ("spec.ports[*].port", True),
        ('spec["ports"]', True),
        ("spec.ports[1]", False),
        ("spec.port", False),
    ],
)
def test_ignored_changes_are_found_by_path(pattern: str, covered: bool) -> None:
    assert diff.ignored(Change(("spec", "ports", 0, "port"), "UPDATE"), [pattern]) is covered


def test_the_fields_we_applied_are_told_from_those_the_server_added() -> None:
    live = {"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "type": "ClusterIP"}}
    fields: dict[str, Any] = {
        "f:spec": {"f:ports": {'k:{"port":1,"protocol":"TCP"}': {".": {}, "f:port": {}}}}
    }

    assert diff.owned(live, fields) == {"spec": {"ports": [{"port": 1}]}}


def test_a_replacement_by_name_deletes_first() -> None:
    answer = differences([Change(("spec", "x"), "ADD", replaces=True)], delete_first=True)

    assert answer.deleteBeforeReplace
    assert list(answer.replaces) == ["spec.x"]
    assert not differences([], delete_first=True).deleteBeforeReplace


@pytest.mark.parametrize(
    ("inputs", "refused"),
    [
        ({"kubeconfig": "", "context": "homelab-sandbox", "enableConfigMapMutable": "true"}, []),
        ({"context": "home"}, ["context"]),
        ({"kubeconfig": "~/.kube/config"}, ["kubeconfig"]),
        ({"contxt": ""}, ["contxt"]),
    ],
)
def test_the_provider_s_inputs_are_checked(inputs: dict[str, Any], refused: list[str]) -> None:
    plugin = Kubernetes("", Path("/somewhere"))

    answer = plugin.CheckConfig(CheckRequest(news=wire.write(inputs)), None)

    assert [failure.property for failure in answer.failures] == refused


@pytest.mark.parametrize(
    ("old", "new", "replaced"), [("a", "b", True), ("a", "a", False), (None, "b", False)]
)
def test_only_another_identifier_is_another_cluster(
    old: str | None, new: str, replaced: bool
) -> None:
    before, after = (
        wire.write({"context": key} | ({"clusterIdentifier": value} if value else {}))
        for key, value in (("x", old), ("y", new))
    )

    answer = Kubernetes("", Path()).DiffConfig(DiffRequest(old_inputs=before, news=after), None)

    assert bool(answer.replaces) is replaced
