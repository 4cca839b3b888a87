"""What counts as drift, and how it is told: the parts that need no cluster."""

import json
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from ops import drift, drift_declared
from ops.__main__ import main
from ops.cluster import UnreadableError
from ops.drift import Report
from ops.drift_declared import State
from ops.drift_release import differences, documents
from ops.findings import Finding
from ops.stacks import Stack

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, labels: {app.kubernetes.io/name: one}}
spec:
  replicas: 0
  paused: false
  strategy: {}
  template:
    spec:
      automountServiceAccountToken: false
      hostNetwork: false
      nodeSelector: null
      initContainers: []
      containers:
        - {name: a, image: "x:1", args: [--word=secret], resources: {requests: {cpu: 0.05}}}
        - name: b
          image: x:1
          env: [{name: WORD, value: secret}]
          resources: {limits: {memory: 1024Mi}}
          ports: [{containerPort: 80}]
"""
# As the API server keeps it, with what it adds.
LIVE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, uid: 1f2e, labels: {app.kubernetes.io/name: one, more: "1"}}
spec:
  strategy: {type: RollingUpdate}
  template:
    spec:
      automountServiceAccountToken: false
      restartPolicy: Always
      containers:
        - name: b
          image: x:1
          env: [{name: WORD, value: secret}]
          resources: {limits: {memory: 1Gi}}
          ports: [{containerPort: 80, protocol: TCP}]
        - {name: a, image: "x:1", args: [--word=secret], resources: {requests: {cpu: 50m}}}
status: {replicas: 0}
"""
A, B = "spec.template.spec.containers[a]", "spec.template.spec.containers[b]"


def edited(old: str, new: str) -> list[str]:
    assert old in LIVE
    return differences(yaml.safe_load(DEPLOYMENT), yaml.safe_load(LIVE.replace(old, new)))


def test_what_the_api_server_adds_leaves_out_or_writes_otherwise_is_no_difference() -> None:
    assert edited("uid: 1f2e", "uid: 3d4c") == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("spec:\n  strategy", "spec:\n  replicas: 2\n  strategy", ["spec.replicas: 0, is 2"]),
        ("app.kubernetes.io/name: one,", "", ['metadata.labels["app.kubernetes.io/name"]: one,'
         " is not there"]),
        ("{name: a, image: \"x:1\"", "{name: a, image: \"x:2\"", [f"{A}.image: x:1, is x:2"]),
        ("cpu: 50m", "cpu: 60m", [f"{A}.resources.requests.cpu: 0.05, is 60m"]),
        ("memory: 1Gi", "memory: 2Gi", [f"{B}.resources.limits.memory: 1024Mi, is 2Gi"]),
        ("containerPort: 80,", "containerPort: 81,", [f"{B}.ports[0].containerPort: 80, is 81"]),
        ("- {name: a", "- {name: c", [f"{A}: there, is not there",
         "spec.template.spec.containers[c]: not there, is there"]),
        ("restartPolicy: Always", "hostNetwork: true",
         ["spec.template.spec.hostNetwork: False, is True"]),
        # Left out means true here: it is no field that the API drops when it is false.
        ("automountServiceAccountToken: false", "dnsPolicy: Default",
         ["spec.template.spec.automountServiceAccountToken: False, is not there"]),
        # Where a password may be, the place is told, and no value.
        ("value: secret", "value: guessed", [f"{B}.env[WORD].value"]),
        ("--word=secret", "--word=guessed", [f"{A}.args[0]"]),
    ],
)  # fmt: skip
def test_what_was_changed_is_told(old: str, new: str, told: list[str]) -> None:
    assert edited(old, new) == told


def test_a_secret_is_compared_and_never_shown() -> None:
    kind = {"apiVersion": "v1", "kind": "Secret"}
    stated = {**kind, "stringData": {"word": "open"}, "data": {"other": "eA=="}}
    live = {**kind, "data": {"word": "b3Blbg==", "other": "eA=="}}

    assert differences(stated, live) == []
    changed = {**kind, "type": "x", "data": {"word": "Z3Vlc3M=", "other": "eA=="}}
    assert differences(stated, changed) == ["data.word"]


def test_the_certificate_that_metallb_writes_is_its_own() -> None:
    def hook(kind: str, bundle: str, url: str) -> dict[str, Any]:
        made = {"name": "x", "clientConfig": {"caBundle": bundle, "url": url}}
        return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "webhooks": [made]}

    ours, others = "ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"
    assert differences(hook(ours, "Cg==", "a"), hook(ours, "eA==", "a")) == []
    assert len(differences(hook(ours, "Cg==", "a"), hook(ours, "eA==", "b"))) == 1
    assert len(differences(hook(others, "Cg==", "a"), hook(others, "eA==", "a"))) == 1


def test_a_manifest_is_read_as_kubernetes_reads_it() -> None:
    text = "{a: 12:30, b: =, c: 2026-01-02, d: 0644, e: true, f: 3, g: '3', h: 1.5}\n---\n# none\n"

    assert documents(text) == [
        {"a": "12:30", "b": "=", "c": "2026-01-02", "d": 420, "e": True, "f": 3, "g": "3", "h": 1.5}
    ]


def cli(code: int, text: str, errors: str = "") -> drift_declared.Cli:
    return lambda *_: CompletedProcess([], code, text, errors)


def exported(*resources: dict[str, Any]) -> str:
    return json.dumps({"deployment": {"resources": [*resources]}})


PROVIDER = {"type": "pulumi:providers:kubernetes", "id": "x", "inputs": {"context": "homelab"}}


def test_the_state_tells_what_there_should_be() -> None:
    release = {"type": "kubernetes:helm.sh/v3:Release", "id": "watch/stack"}
    text = exported(
        PROVIDER,
        {"type": "kubernetes:core/v1:Namespace", "id": "watch"},
        {"type": "kubernetes:apps/v1:Deployment", "id": "watch/one"},
        {"type": "kubernetes:apps/v1:Deployment", "id": "watch/replaced", "delete": True},
        {"type": "random:index/randomPassword:RandomPassword", "id": "none"},
        release,
    )

    state = drift_declared.state(cli(0, text))
    assert state == State(
        context="homelab",
        objects=frozenset({("", "Namespace", "", "watch"), ("apps", "Deployment", "watch", "one")}),
        releases=(("watch", "stack"),),
    )


REFUSED = {"message": "error: no such\n host", "severity": "error"}


@pytest.mark.parametrize(
    ("done", "why"),
    [
        (cli(0, exported()), "state is empty"),
        (cli(0, "no JSON"), "exit 0: no JSON"),
        (cli(255, "", "error: no stack named 'x' found\n"), "exit 255: error: no stack named 'x'"),
        (cli(1, json.dumps({"diagnostics": [REFUSED]})), "exit 1: error: no such host"),
    ],
)
def test_a_state_that_cannot_be_read_says_why(done: drift_declared.Cli, why: str) -> None:
    with pytest.raises(UnreadableError, match=why):
        drift_declared.state(done)


def test_a_refresh_whose_count_is_not_what_it_names_is_not_believed() -> None:
    with pytest.raises(UnreadableError, match="counts"):
        drift_declared.refresh(cli(7, json.dumps({"steps": [], "changeSummary": {"update": 1}})))
    with pytest.raises(UnreadableError, match="exit 1"):
        drift_declared.refresh(cli(1, json.dumps({"steps": [], "changeSummary": {"same": 1}})))
    assert drift_declared.refresh(cli(0, json.dumps({"changeSummary": {"same": 1}}))) == []


def test_a_release_that_was_upgraded_by_hand_is_told_without_its_values() -> None:
    old = {"type": "kubernetes:helm.sh/v3:Release", "id": "watch/stack", "inputs": {"version": "1"}}
    step = {
        "op": "update",
        "oldState": old,
        "newState": {"inputs": {"version": "2"}},
        "detailedDiff": {"version": {}, "values.word": {}},
    }
    text = json.dumps({"steps": [step], "changeSummary": {"update": 1, "same": 3}})

    assert drift_declared.refresh(cli(7, text)) == [
        Finding("declared", "release", "watch", "stack", "changed", ("values.word", "version"))
    ]


FINDINGS = [
    Finding("declared", "service", "ai", "one", "changed", ("spec.a: 1, is 2", "spec.b: 1, is 2")),
    Finding("release", "deployment.apps", "watch", "two", "deleted"),
]


def test_every_finding_is_a_line_and_every_answer_a_command() -> None:
    state = State(context="homelab", objects=frozenset(), releases=(("watch", "stack"),))
    stack = Stack(name="home", cli=cli(0, ""), kubeconfig=None, simulated=False)

    assert drift.table(FINDINGS) == [
        "  declared: service ai/one: changed",
        "    spec.a: 1, is 2",
        "    spec.b: 1, is 2",
        "  release: deployment.apps watch/two: deleted",
    ]
    manifest = (
        "  helm --kube-context homelab -n watch get manifest stack"
        " | kubectl --context homelab apply --server-side --force-conflicts -f -"
    )
    told = drift.answers(Report("home", FINDINGS), stack, state)
    assert told[1:3] == [manifest, "  make up STACK=home"]
    told = drift.answers(Report("home", FINDINGS[1:]), stack, state)
    assert told[1:2] == [manifest]
    assert "  make up STACK=home" not in told


def test_what_could_not_be_read_outweighs_everything() -> None:
    assert Report("home").code == 0
    assert Report("home", FINDINGS).code == 7
    assert Report("home", FINDINGS, ["one namespace"]).code == 1
    assert Report("home", [], ["one namespace"]).code == 1


def test_without_the_cli_or_a_running_sandbox_nothing_is_said_to_be_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")

    assert main(["drift", "--stack", "home"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "error: could not check home: pulumi: not on PATH;"
        " it must be 3.250 or newer (docs/house.md)\n"
    )
