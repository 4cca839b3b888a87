"""`make drift` without a cluster: what counts as drift, and the output."""

import json
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from ops import drift, stacks
from ops.__main__ import main
from ops.cluster import UnreadableError
from ops.drift_fields import Finding, compare
from ops.stacks import Stack

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, namespace: ai, labels: {app.kubernetes.io/name: one}}
spec:
  replicas: 0
  strategy: {}
  template:
    spec:
      automountServiceAccountToken: false
      hostNetwork: false
      nodeSelector: null
      initContainers: []
      containers:
        - {name: a, image: "x:1", args: [--word=secret, -b, -c], resources: {requests: {cpu: 0.05}}}
        - name: b
          image: x:1
          env: [{name: WORD, value: secret}, {name: EMPTY, value: ""}]
          resources: {limits: {memory: 1024Mi}}
          ports: [{containerPort: 80}]
"""
# As the API server stores it, with its defaults and fields of its own.
LIVE = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: one
  namespace: ai
  uid: 1f2e
  labels: {app.kubernetes.io/name: one}
  annotations: {deployment.kubernetes.io/revision: "3"}
  managedFields:
    - manager: pulumi-kubernetes-1a2b
      time: 2026-11-27T16:00:00Z
      fieldsV1: {f:metadata: {}}
    - manager: kube-controller-manager
      time: 2026-11-27T16:00:01Z
      subresource: status
      fieldsV1:
        f:metadata: {f:annotations: {f:deployment.kubernetes.io/revision: {}}}
        f:status: {f:replicas: {}}
spec:
  strategy: {type: RollingUpdate}
  template:
    spec:
      automountServiceAccountToken: false
      restartPolicy: Always
      containers:
        - name: b
          image: x:1
          env: [{name: WORD, value: secret}, {name: EMPTY}]
          resources: {limits: {memory: 1Gi}}
          ports: [{containerPort: 80, protocol: TCP}]
        - {name: a, image: "x:1", args: [--word=secret, -b, -c], resources: {requests: {cpu: 50m}}}
status: {replicas: 0}
"""
A, B = "spec.template.spec.containers[a]", "spec.template.spec.containers[b]"


def edited(old: str, new: str, fields: object = None) -> list[Finding]:
    """Compare after an edit of `LIVE`; kubectl manages `fields` of it."""
    assert old in LIVE
    live = yaml.safe_load(LIVE.replace(old, new))
    if fields:
        entry = {"manager": "kubectl-edit", "time": "noon", "fieldsV1": fields}
        live["metadata"]["managedFields"].append(entry)
    return compare("state", yaml.safe_load(DEPLOYMENT), live)


def test_defaults_and_other_spellings_of_the_api_server_are_no_drift() -> None:
    assert edited("uid: 1f2e", "uid: 3d4c") == []


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ("spec:\n  strategy", "spec:\n  replicas: 2\n  strategy", ["spec.replicas: got 2, want 0"]),
        ("{app.kubernetes.io/name: one}", "{}",
         ['metadata.labels["app.kubernetes.io/name"]: got nothing, want one']),
        ("{name: a, image: \"x:1\"", "{name: a, image: \"x:2\"", [f"{A}.image: got x:2, want x:1"]),
        ("cpu: 50m", "cpu: 60m", [f"{A}.resources.requests.cpu: got 60m, want 0.05"]),
        ("memory: 1Gi", "memory: 2Gi", [f"{B}.resources.limits.memory: got 2Gi, want 1024Mi"]),
        ("containerPort: 80,", "containerPort: 81,",
         [f"{B}.ports[0].containerPort: got 81, want 80"]),
        ("- {name: a", "- {name: c",
         ["spec.template.spec.containers[c]: got an object, want nothing",
         f"{A}: got nothing, want an object"]),
        ("restartPolicy: Always", "hostNetwork: true",
         ["spec.template.spec.hostNetwork: got True, want False"]),
        # False is not the default of this field, so the API does not omit it.
        ("automountServiceAccountToken: false", "dnsPolicy: Default",
         ["spec.template.spec.automountServiceAccountToken: got nothing, want False"]),
        # Values that may be passwords are not shown.
        ("value: secret", "value: guessed", [f"{B}.env[WORD].value: value not shown"]),
        ("--word=secret,", "--word=guessed,", [f"{A}.args[0]: value not shown"]),
        # An added or removed element is reported at the first different index.
        ("[--word=secret, -b, -c]", "[--more, --word=secret, -b, -c]",
         [f"{A}.args[0]: value not shown"]),
        ("[--word=secret, -b, -c]", "[--word=secret, -b]", [f"{A}.args[2]: value not shown"]),
    ],
)  # fmt: skip
def test_a_changed_field_is_reported_with_its_path(old: str, new: str, fields: list[str]) -> None:
    (finding,) = edited(old, new)

    assert (finding.layer, finding.kind, finding.where) == ("state", "deployment.apps", "ai/one")
    assert (finding.change, [*finding.fields]) == ("changed", fields)


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({"f:restartPolicy": {}}, ["/spec/template/spec/restartPolicy"]),
        # The API server adds the protocol to the key, and kubectl then manages it, too.
        (
            {
                "f:containers": {
                    'k:{"name":"b"}': {
                        "f:ports": {
                            'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:protocol": {}},
                            'k:{"containerPort":81,"protocol":"TCP"}': {".": {}, "f:protocol": {}},
                        }
                    }
                }
            },
            ["/spec/template/spec/containers/0/ports/0/protocol"],
        ),
    ],
)
def test_a_field_that_is_not_declared_is_drift_if_another_manager_has_set_it(
    fields: object, added: list[str]
) -> None:
    (finding,) = edited("uid: 1f2e", "uid: 3d4c", {"f:spec": {"f:template": {"f:spec": fields}}})

    assert [*finding.added] == added
    assert [text.partition(" (")[2] for text in finding.fields] == ["kubectl-edit, noon)"]


def test_the_manager_of_a_scale_is_reported_without_a_time() -> None:
    # kubectl scale leaves an entry without a time.
    live = yaml.safe_load(LIVE.replace("spec:\n  strategy", "spec:\n  replicas: 2\n  strategy"))
    entry = {
        "manager": "kubectl",
        "subresource": "scale",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
    }
    live["metadata"]["managedFields"].append(entry)

    (finding,) = compare("state", yaml.safe_load(DEPLOYMENT), live)

    assert finding.fields == ("spec.replicas: got 2, want 0 (kubectl, scale)",)


def test_the_annotation_of_a_restart_is_no_drift_and_another_annotation_is() -> None:
    restarted = "template:\n    metadata: {annotations: {%s: x}}\n    spec:"

    def annotated(name: str) -> list[Finding]:
        owned = {"f:metadata": {"f:annotations": {f"f:{name}": dict[str, Any]()}}}
        return edited("template:\n    spec:", restarted % name, {"f:spec": {"f:template": owned}})

    assert annotated("kubectl.kubernetes.io/restartedAt") == []
    assert annotated("example.org/a~b")[0].added == (
        "/spec/template/metadata/annotations/example.org~1a~0b",
    )


def test_an_object_with_a_deletion_timestamp_counts_as_deleted() -> None:
    (finding,) = edited("uid: 1f2e", "deletionTimestamp: now")

    assert (finding.change, finding.fields) == ("deleted", ())


def test_a_secret_is_compared_and_its_values_are_not_shown() -> None:
    declared = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one"}}
    record = [{"manager": "helm", "time": "noon", "fieldsV1": {}}]
    live = {**declared, "metadata": {"name": "one", "managedFields": record}, "type": "x"}

    def findings(word: str) -> list[Finding]:
        return compare(
            "state", {**declared, "data": {"word": "a"}}, {**live, "data": {"word": word}}
        )

    assert findings("a") == []
    assert findings("b")[0].fields == ("data.word: value not shown",)


def stack(code: int, text: str, errors: str = "") -> Stack:
    """Return a stack whose CLI exits with `code` and prints this."""

    def cli(*words: str) -> CompletedProcess[str]:
        if words[0] == "whoami":
            return CompletedProcess([], 0, '{"url": "s3://states"}', "")
        return CompletedProcess([], code, text, errors)

    return Stack(name="home", cli=cli, kubeconfig=None)


def exported(*resources: dict[str, Any]) -> str:
    return json.dumps({"deployment": {"resources": [*resources]}})


PROVIDER = {"type": "pulumi:providers:kubernetes", "id": "x", "inputs": {"context": "homelab"}}
REFUSED = [
    {"message": "an old plugin", "severity": "warning"},
    {"message": "error: no such\n host", "severity": "error"},
]


def test_the_state_is_decrypted_and_has_no_resources_pending_deletion() -> None:
    encrypted = {"4dabf18193072939515e22adb298388d": "1b47", "plaintext": '{"word":"a"}'}
    secret = {"type": "kubernetes:core/v1:Secret", "id": "ai/one", "inputs": {"data": encrypted}}

    state = stacks.deployment(stack(0, exported(PROVIDER, secret, {**secret, "delete": True})))
    assert state["context"] == "homelab"
    assert state["resources"] == [PROVIDER, {**secret, "inputs": {"data": {"word": "a"}}}]


@pytest.mark.parametrize(
    ("unreadable", "reason"),
    [
        (stack(0, exported()), "state is empty"),
        (stack(255, "", "error: no stack named 'x' found\n"), "export: error: no stack named"),
    ],
)
def test_a_state_that_cannot_be_read_says_why(unreadable: Stack, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        stacks.deployment(unreadable)


def test_a_refresh_whose_summary_differs_from_its_steps_is_an_error() -> None:
    with pytest.raises(UnreadableError, match="got 0 steps, want"):
        drift._engine(stack(7, json.dumps({"steps": [], "changeSummary": {"update": 1}})))
    with pytest.raises(UnreadableError, match="exit 0: no JSON"):
        drift._engine(stack(0, "no JSON"))
    with pytest.raises(UnreadableError, match="exit 1: error: no such host"):
        drift._engine(stack(1, json.dumps({"diagnostics": REFUSED})))
    with pytest.raises(UnreadableError, match="exit 1"):
        drift._engine(stack(1, json.dumps({"steps": [], "changeSummary": {"same": 1}})))
    assert drift._engine(stack(0, json.dumps({"changeSummary": {"same": 1}}))) == []


def test_an_upgraded_release_is_reported_without_values() -> None:
    old = {"type": "kubernetes:helm.sh/v3:Release", "id": "watch/stack"}
    step = {"op": "update", "oldState": old, "detailedDiff": {"values.word": {}, "version": {}}}
    text = json.dumps({"steps": [step], "changeSummary": {"update": 1, "same": 3}})

    assert drift._engine(stack(7, text)) == [
        Finding(
            "state",
            "release",
            "watch/stack",
            "changed",
            ("values.word: value not shown", "version: value not shown"),
        )
    ]


@pytest.mark.parametrize(
    ("findings", "unread", "code", "out"),
    [
        ([], [], 0, ""),
        ([Finding("state", "service", "ai/one", "deleted")], [], 7, "ai/one: deleted"),
        ([Finding("state", "service", "ai/one", "deleted")], ["a kind"], 1, "ai/one: deleted"),
        ([], ["a kind", "another"], 1, ""),
    ],
)
def test_unread_objects_make_the_check_fail(
    findings: list[Finding],
    unread: list[str],
    code: int,
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stacks, "find", lambda _: stack(0, exported(PROVIDER)))
    monkeypatch.setattr(drift, "check", lambda *_: (findings, unread))

    assert main(["drift", "--stack", "home"]) == code
    output = capsys.readouterr()
    assert out in output.out
    assert bool(output.out) == bool(findings)
    assert ("no drift" in output.err) == (code == 0)
    assert ("error: could not check home: a kind" in output.err) == bool(unread)


@pytest.mark.parametrize(
    ("days", "is_reported"), [(300, False), (31, False), (29, True), (-1, True)]
)
@pytest.mark.parametrize(
    ("which", "advice"),
    [
        ("the certificate", "sudo microk8s refresh-certs -e server.crt"),
        ("the kubelet's certificate", "docs/upgrade.md#certificates"),
    ],
)
def test_a_certificate_that_expires_within_30_days_is_reported_with_advice(
    days: float,
    is_reported: bool,
    which: str,
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration = SimpleNamespace(host="https://192.168.1.100:16443")
    cluster: Any = SimpleNamespace(configuration=configuration)
    days_left = {"the certificate": 300.0, "the kubelet's certificate": None} | {which: days}
    monkeypatch.setattr(stacks, "find", lambda _: stack(0, exported(PROVIDER)))
    for name, left in zip(("certificate_days", "kubelet_days"), days_left.values(), strict=True):
        monkeypatch.setattr(f"ops.cluster.{name}", Mock(return_value=left))
    monkeypatch.setattr(drift, "Cluster", lambda *_: cluster)
    monkeypatch.setattr(drift, "_engine", lambda _: [])

    assert main(["drift", "--stack", "home"]) == (7 if is_reported else 0)
    out = capsys.readouterr().out
    line = f"server: {which} https://192.168.1.100:16443: expires in {days} days"
    assert (line in out) == is_reported
    assert (advice in out) == is_reported


def test_without_the_cli_the_check_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert main(["drift", "--stack", "home"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: could not check home: pulumi: not on PATH;"
        " it must be 3.250 or newer (docs/install.md)\n"
    )
