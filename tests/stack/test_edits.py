"""Preview and `up` undo an edit of every object that the program declares."""

import copy
import json
from typing import Any

from doctor_lab import connect
from live_stack import LiveStack

EDITS: dict[str, dict[str, Any]] = {
    "ClusterRole": {"rules": []},
    "ClusterRoleBinding": {"subjects": []},
    "CronJob": {"spec": {"schedule": "1 1 1 1 *"}},
    "Deployment": {"spec": {"replicas": 0}},
    "IPAddressPool": {"spec": {"addresses": ["192.168.1.200-192.168.1.210"]}},
    "L2Advertisement": {"spec": {"ipAddressPools": ["elsewhere"]}},
    "Namespace": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}},
    "NetworkPolicy": {"spec": {"podSelector": {"matchLabels": {"app": "elsewhere"}}}},
    "PersistentVolume": {"spec": {"capacity": {"storage": "1Ti"}}},
    "PrometheusRule": {"spec": {"groups": []}},
    "Role": {"rules": []},
    "RoleBinding": {"subjects": []},
    "Service": {"spec": {"selector": {"app.kubernetes.io/name": "elsewhere"}}},
    "ServiceAccount": {"automountServiceAccountToken": True},
}
"""JSON merge patches by kind, in addition to a changed label."""
SET_BY_OTHERS = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")


def declared(live_stack: LiveStack) -> list[tuple[str, str, str, str]]:
    """Return API version, kind, namespace and name of each object in the state."""
    resources = json.loads(live_stack.engine.cli("stack", "export").stdout)["deployment"][
        "resources"
    ]
    objects = [
        item["inputs"]
        for item in resources
        if item["type"].startswith("kubernetes:") and "kind" in item["inputs"]
    ]
    return [
        (
            item["apiVersion"],
            item["kind"],
            item["metadata"].get("namespace", ""),
            item["metadata"]["name"],
        )
        for item in objects
    ]


def patch(live: dict[str, Any]) -> dict[str, Any]:
    """Return an edit of a live object: a label, each value of its data, and its `EDITS`."""
    edit = copy.deepcopy(EDITS.get(live["kind"], {}))
    labels = edit.setdefault("metadata", {}).setdefault("labels", {})
    labels["app.kubernetes.io/part-of"] = "elsewhere"
    if data := live.get("data"):
        edit["data"] = dict.fromkeys(data, "ZWRpdGVk")
    return edit


def state_of(live: dict[str, Any]) -> dict[str, Any]:
    """Return an object without the fields that API server and controllers set."""
    result = copy.deepcopy(live)
    result.pop("status", None)
    for key in SET_BY_OTHERS:
        result["metadata"].pop(key, None)
    (result["metadata"].get("annotations") or {}).pop("deployment.kubernetes.io/revision", None)
    if live["kind"] == "Job":  # a new one has another uid in all of these
        del result["spec"]["selector"], result["spec"]["template"]["metadata"]["labels"]
        result["metadata"]["labels"] = {
            key: value
            for key, value in result["metadata"]["labels"].items()
            if not key.endswith("controller-uid")
        }
    return result


def test_up_undoes_an_edit_of_every_declared_object(live_stack: LiveStack) -> None:
    kube = connect(live_stack.cluster)

    def resource(version: str, kind: str) -> Any:
        return kube.resources.get(api_version=version, kind=kind)

    def read() -> dict[tuple[str, ...], dict[str, Any]]:
        return {
            (version, kind, namespace, name): resource(version, kind)
            .get(name=name, namespace=namespace or None)
            .to_dict()
            for version, kind, namespace, name in declared(live_stack)
        }

    before = read()
    for (version, kind, namespace, name), live in before.items():
        resource(version, kind).patch(
            body=patch(live),
            name=name,
            namespace=namespace or None,
            content_type="application/merge-patch+json",
            field_manager="kubectl-edit",
        )

    previewed = live_stack.engine.preview()
    previewed.pop("same", None)

    assert live_stack.up() == previewed
    after = read()
    changed = {key[1:] for key, live in after.items() if state_of(live) != state_of(before[key])}
    assert changed == set()
    assert live_stack.up() == {}


def test_an_edited_secret_is_updated_in_place(live_stack: LiveStack) -> None:
    """Pods that mount a deleted Secret fail, and its Deployments would be replaced with it."""
    names = {("ollama-stack", name) for name in ("open-webui", "ollama-gateway")}
    names.add(("observability", "alertmanager-config"))

    def secrets() -> dict[str, Any]:
        return {
            name: live_stack.core.read_namespaced_secret(name, namespace)
            for namespace, name in sorted(names)
        }

    before, uids = secrets(), live_stack.uids()
    for secret in before.values():
        live_stack.core.patch_namespaced_secret(
            secret.metadata.name,
            secret.metadata.namespace,
            {"data": dict.fromkeys(secret.data, "ZWRpdGVk")},
            field_manager="kubectl-edit",
        )

    assert live_stack.up() == {"update": len(names)}
    after = secrets()
    assert {name: secret.data for name, secret in after.items()} == {
        name: secret.data for name, secret in before.items()
    }
    assert {secret.metadata.uid for secret in after.values()} == {
        secret.metadata.uid for secret in before.values()
    }
    assert live_stack.uids() == uids
