"""The summary of `make diff`, from the engine's events."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pulumi.automation import EngineEvent

from ops.diff import LIMIT, _apply, summary
from sandbox.processes import SandboxError

DEPLOYMENT, JOB = "kubernetes:apps/v1:Deployment", "kubernetes:batch/v1:Job"
VOLUME, NAMESPACE = "kubernetes:core/v1:PersistentVolume", "kubernetes:core/v1:Namespace"
SERVICE, RELEASE = "kubernetes:core/v1:Service", "kubernetes:helm.sh/v3:Release"
PASSWORD, STACK = "random:index/randomPassword:RandomPassword", "pulumi:pulumi:Stack"
POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
CONFIG_MAP, CRON = "kubernetes:core/v1:ConfigMap", "kubernetes:batch/v1:CronJob"
CONTAINER = "spec.template.spec.containers[0]"
IMAGE, PORT, VALUE = (f"{CONTAINER}.{at}" for at in ("image", "ports[0]", "env[0].value"))
PLACE = {"namespace": "there", "name": "chart"}
LEVEL = 'metadata.labels["pod-security.kubernetes.io/enforce"]'
URN = "urn:pulumi:home::homelab::{}::it"


def event(type_: str, op: str, old: Any = None, new: Any = None, *paths: str) -> EngineEvent:
    """Return the engine's event before a step, or after the step of the stack."""
    urn, kinds = URN.format(type_), {path: {"diffKind": "update"} for path in paths}

    def state(inputs: Any) -> dict[str, Any]:
        named = {"metadata": {"namespace": "here", "name": "it"}} if "::it" in urn else {}
        return {"type": type_, "urn": urn, "inputs": {**named, **inputs}, "outputs": inputs}

    metadata = {
        "op": op,
        "urn": urn,
        "type": type_,
        "provider": "",
        "old": None if old is None else state(old),
        "new": None if new is None else state(new),
        "detailedDiff": kinds,
    }
    key = "resOutputsEvent" if type_ == STACK else "resourcePreEvent"
    return EngineEvent.from_json({"sequence": 1, "timestamp": 1, key: {"metadata": metadata}})


def pod(**container: Any) -> dict[str, Any]:
    """Return the inputs of a workload with one container."""
    return {"spec": {"template": {"spec": {"containers": [container]}}}}


def labelled(level: str) -> dict[str, Any]:
    """Return the inputs of a Namespace that enforces this Pod Security level."""
    return {"metadata": {"name": "it", "labels": {"pod-security.kubernetes.io/enforce": level}}}


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        (event(DEPLOYMENT, "same", pod(image="a:1"), pod(image="a:1")), []),
        (event(CONFIG_MAP, "update", {"data": {"a": "1"}}, {"data": {"a": "2"}}, "data.a"), []),
        (event(CRON, "update", {"spec": {"suspend": True}}, {"spec": {}}, "spec.suspend"), []),
        # A replacement has one line: its steps of deletion and creation have none.
        (event(VOLUME, "delete-replaced", {}), []),
        (event(VOLUME, "create-replacement", {}, {}), []),
        (event(VOLUME, "create", None, {}), []),
        (event(VOLUME, "delete", {}), ["data: PersistentVolume here/it is deleted"]),
        (
            event(VOLUME, "replace", {"spec": {"at": "/a"}}, {"spec": {"at": "/b"}}, "spec.at"),
            ["data: PersistentVolume here/it is replaced because of spec.at: /a -> /b"],
        ),
        (
            event(VOLUME, "update", {"spec": {"size": "1Gi"}}, {"spec": {}}, "spec.size"),
            ["data: PersistentVolume here/it, spec.size: 1Gi -> none"],
        ),
        (event(PASSWORD, "replace", {}, {}), ["data: RandomPassword here/it is replaced"]),
        (event(DEPLOYMENT, "delete", pod()), ["deleted: Deployment here/it is deleted"]),
        (event(RELEASE, "replace", {}, {}), ["replaced: Release here/it is replaced"]),
        (
            # Its name is not in `metadata`.
            event(RELEASE, "update", {}, {"metadata": {}, **PLACE}, "values.grafana"),
            ["restarts: pods of Release there/chart that Helm changes"],
        ),
        (
            event(DEPLOYMENT, "update", pod(image="a:1"), pod(image="a:2"), IMAGE),
            ["restarts: Deployment here/it", "downloaded: image a:2"],
        ),
        (event(DEPLOYMENT, "replace", pod(), pod()), ["restarts: Deployment here/it"]),
        (event(DEPLOYMENT, "update", pod(), pod(), "spec.replicas"), []),
        (event(JOB, "replace", pod(), pod(), "metadata.name"), ["restarts: Job here/it"]),
        (event(SERVICE, "create", None, {}), ["reachable: Service here/it, created"]),
        (
            event(POLICY, "delete", {}),
            [
                "deleted: NetworkPolicy here/it is deleted",
                "reachable: NetworkPolicy here/it, deleted",
            ],
        ),
        (
            event(SERVICE, "update", {"spec": {"a": 1}}, {"spec": {"a": 2}}, "spec.a"),
            ["reachable: Service here/it, spec.a: 1 -> 2"],
        ),
        (
            event(NAMESPACE, "update", labelled("restricted"), labelled("privileged"), LEVEL),
            [
                f"data: Namespace it, {LEVEL}: restricted -> privileged",
                f"reachable: Namespace it, {LEVEL}: restricted -> privileged",
            ],
        ),
        (
            event(DEPLOYMENT, "update", pod(ports=[{}]), pod(ports=[{"hostPort": 80}]), PORT),
            [
                f"reachable: Deployment here/it, {PORT}: {{}} -> {{'hostPort': 80}}",
                "restarts: Deployment here/it",
            ],
        ),
        (
            event(
                DEPLOYMENT,
                "update",
                pod(env=[{"name": "ENABLE_SIGNUP", "value": "false"}]),
                pod(env=[{"name": "ENABLE_SIGNUP", "value": "true"}]),
                VALUE,
            ),
            [
                f"reachable: Deployment here/it, {VALUE}: false -> true",
                "restarts: Deployment here/it",
            ],
        ),
        (
            event(STACK, "same", {"models": ["a:1b", "b:2b"]}, {"models": ["b:2b", "c:3b"]}),
            ["deleted: model a:1b", "downloaded: model c:3b"],
        ),
    ],
)
def test_each_step_gives_these_lines(changed: EngineEvent, lines: list[str]) -> None:
    assert summary([changed], [], []) == lines


@pytest.mark.parametrize("op", ["delete", "replace"])
def test_deleting_a_protected_resource_is_one_line(op: str) -> None:
    (line,) = summary([event(VOLUME, op, {}, {})], [URN.format(VOLUME)], [])

    assert line == f"data: PersistentVolume here/it is {op}d; refused: it is protected"


def test_an_image_that_another_pod_uses_is_not_listed_as_downloaded() -> None:
    unchanged = event(CRON, "same", pod(image="a:2"), pod(image="a:2"))
    changed = event(DEPLOYMENT, "update", pod(image="a:1"), pod(image="a:2"), IMAGE)

    assert summary([unchanged, changed], [], []) == ["restarts: Deployment here/it"]


def test_the_summary_has_ten_lines_at_most_and_all_notes() -> None:
    images = {"containers": [{"image": f"a:{n}"} for n in range(2, 22)]}
    many = event(DEPLOYMENT, "update", pod(image="a:1"), {"spec": {"template": images}}, IMAGE)
    notes = ["not compared: one", "not compared: two"]

    lines = summary([many, event(VOLUME, "delete", {})], [], notes)

    assert len(lines) == LIMIT
    assert lines[:2] == [
        "data: PersistentVolume here/it is deleted",
        "restarts: Deployment here/it",
    ]
    assert lines[7:] == ["and 15 more", *notes]


def test_deletions_come_before_updates() -> None:
    changed = event(NAMESPACE, "update", {"spec": {"a": 1}}, {"spec": {"a": 2}}, "spec.a")

    assert summary([changed, event(VOLUME, "delete", {})], [], []) == [
        "data: PersistentVolume here/it is deleted",
        "data: Namespace here/it, spec.a: 1 -> 2",
    ]


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (
            "error: homelab:charts: unknown key, known keys: context",
            "BASE: old cannot be deployed: its program rejects its stack file:"
            " error: homelab:charts: unknown key, known keys: context; choose another BASE",
        ),
        ("error: no answer", "BASE: old cannot be deployed: error: no answer; choose another BASE"),
    ],
)
def test_an_error_of_the_base_names_the_base(tmp_path: Path, printed: str, line: str) -> None:
    (tmp_path / "requirements.txt").touch()

    with pytest.raises(SandboxError) as refused:
        _apply(tmp_path, tmp_path, Mock(), "old", f"raise SystemExit({printed!r})")
    assert str(refused.value) == line
