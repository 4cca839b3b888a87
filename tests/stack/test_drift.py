"""`make drift` on a live stack: edits by hand are found, and undone by the printed commands."""

import base64
import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from drift_lab import (
    Kubectl,
    commands,
    kubeconfig_of,
    lines_of,
    look,
    stack_of,
    token,
)
from live_stack import LiveStack
from pulumi.automation import CommandError
from urllib3 import PoolManager

import ops.__main__
from ops import drift, recover, releases, stacks
from ops.drift_fields import Finding
from sandbox.engine import OWN_CHART

TEMPLATE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: planted}
data: {key: "1", empty: ""}
---
apiVersion: v1
kind: Service
metadata: {name: planted, namespace: observability, labels: {release: kube-prom-stack}}
spec: {type: ClusterIP, selector: {app: planted}, ports: [{name: web, port: 80, targetPort: web}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: planted, namespace: observability}
spec:
  replicas: 1
  selector: {matchLabels: {app: planted}}
  template:
    metadata: {labels: {app: planted}, annotations: null}
    spec:
      hostNetwork: false
      containers:
        - name: main
          image: example.invalid/planted:1
          args: [--first, --second]
          env: [{name: A, value: "1"}]
          resources: {requests: {cpu: 0.05, memory: 1024Ki}, limits: {}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: planted, namespace: observability}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: planted, namespace: observability}
spec: {groups: [{name: planted, rules: [{alert: Planted, expr: vector(1)}]}]}
"""

CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
NETWORK = "/apis/networking.k8s.io/v1/namespaces"
MONITORING = "/apis/monitoring.coreos.com/v1/namespaces/observability"
POD = "spec.template.spec"
Edit = tuple[str, str, object, str]
"""Path of the object, JSON pointer and value of what is added to it, and the expected line."""

STATE: list[Edit] = [
    (
        f"{RBAC}/clusterroles/homelab-reader",
        "/rules/-",
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]},
        "rules[3]: got an object, want nothing",
    ),
    (
        f"{RBAC}/clusterrolebindings/homelab-reader",
        "/subjects/-",
        {"kind": "ServiceAccount", "name": "default", "namespace": "default"},
        "subjects[default]: got an object, want nothing",
    ),
    (
        f"{CORE}/ollama-stack/configmaps/ollama-model-job",
        "/data/more",
        "x",
        "data.more: value not shown",
    ),
    (
        f"{CORE}/ollama-stack/configmaps/ollama-model-job",
        "/metadata/finalizers",
        ["example.org/kept"],
        "metadata.finalizers[0]: got example.org/kept, want nothing",
    ),
    (
        f"{CORE}/ollama-stack/secrets/open-webui",
        "/data/more",
        "Z3Vlc3MtbWU=",
        "data.more: value not shown",
    ),
    (
        "/api/v1/namespaces/ollama-stack",
        "/metadata/labels/pod-security.kubernetes.io~1warn-version",
        "v1.29",
        'metadata.labels["pod-security.kubernetes.io/warn-version"]: got v1.29, want nothing',
    ),
    (
        f"{CORE}/ollama-stack/persistentvolumeclaims/models",
        "/metadata/annotations/example.org~1note",
        "guess-me",
        'metadata.annotations["example.org/note"]: value not shown',
    ),
    (
        f"{CORE}/ollama-stack/persistentvolumeclaims/models",
        "/metadata/finalizers/-",
        "example.org/kept",
        "metadata.finalizers[1]: got example.org/kept, want nothing",
    ),
    (
        f"{CORE}/ollama-stack/services/ollama-service",
        "/spec/ports/-",
        {"name": "more", "port": 8, "targetPort": 8},
        "spec.ports[more]: got an object, want nothing",
    ),
    (
        f"{CORE}/ollama-stack/services/ollama-service",
        "/spec/sessionAffinity",
        "ClientIP",
        "spec.sessionAffinity: got ClientIP, want nothing",
    ),
    (
        f"{NETWORK}/ollama-stack/networkpolicies/ollama",
        "/spec/ingress/-",
        {},
        "spec.ingress[{last}]: got an object, want nothing",
    ),
    (
        f"{APPS}/ollama-stack/deployments/open-webui",
        "/spec/template/spec/containers/0/env/-",
        {"name": "MORE", "value": "guess-me"},
        f"{POD}.containers[open-webui].env[MORE]: value not shown",
    ),
    (
        f"{APPS}/ollama-stack/deployments/open-webui",
        "/spec/template/spec/containers/-",
        {"name": "more", "image": "example.invalid/more:1"},
        f"{POD}.containers[more]: got an object, want nothing",
    ),
    (
        f"{APPS}/ollama-stack/deployments/open-webui",
        "/spec/template/spec/tolerations",
        [{"operator": "Exists"}],
        f"{POD}.tolerations[0]: got an object, want nothing",
    ),
    (
        f"{APPS}/ollama-stack/deployments/open-webui",
        "/spec/template/spec/volumes/-",
        {"name": "more", "hostPath": {"path": "/"}},
        f"{POD}.volumes[more]: got an object, want nothing",
    ),
    (
        f"{APPS}/ollama-stack/deployments/open-webui",
        "/spec/template/spec/terminationGracePeriodSeconds",
        5,
        f"{POD}.terminationGracePeriodSeconds: got 5, want nothing",
    ),
    # A default that was changed and changed back still has another manager.
    *(
        (
            f"{APPS}/ollama-stack/deployments/open-webui",
            "/spec/template/spec/containers/0/terminationMessagePolicy",
            value,
            f"{POD}.containers[open-webui].terminationMessagePolicy: got File, want nothing",
        )
        for value in ("FallbackToLogsOnError", "File")
    ),
    (
        "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools/homelab",
        "/spec/addresses/0",
        "192.168.1.200/32",
        "spec.addresses[0]: got 192.168.1.200/32, want nothing",
    ),
]
RELEASE: list[Edit] = [
    (
        f"{RBAC}/clusterroles/planted",
        "/rules/0",
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
        "rules[0]: got an object, want nothing",
    ),
    (f"{CORE}/observability/configmaps/planted", "/data/more", "x", "data.more: value not shown"),
    (
        f"{CORE}/observability/services/planted",
        "/spec/externalIPs",
        ["192.168.1.9"],
        "spec.externalIPs[0]: got 192.168.1.9, want nothing",
    ),
    (
        f"{APPS}/observability/deployments/planted",
        "/spec/template/spec/containers/0/args/1",
        "--more",
        f"{POD}.containers[main].args[1]: value not shown",
    ),
    (
        f"{APPS}/observability/deployments/planted",
        "/spec/template/spec/hostNetwork",
        True,
        f"{POD}.hostNetwork: got True, want False",
    ),
    (
        f"{MONITORING}/prometheusrules/planted",
        "/spec/groups/0/rules/-",
        {"alert": "More", "expr": "vector(1)"},
        "spec.groups[planted].rules[1]: got an object, want nothing",
    ),
]


@pytest.fixture(scope="module")
def kubectl(live_stack: LiveStack) -> Kubectl:
    """The admin's access to the live stack's cluster."""
    return Kubectl(live_stack)


def fields_in(live_stack: LiveStack, layer: str) -> dict[str, tuple[str, ...]]:
    """Return the change and the fields, without managers, of each object; all are of `layer`."""
    findings, unread = look(live_stack)
    assert unread == []
    assert {finding.layer for finding in findings} <= {layer}
    return {
        f"{finding.kind} {finding.where}": (
            finding.change,
            *(field.partition(" (")[0] for field in finding.fields),
        )
        for finding in findings
    }


def state_files(live_stack: LiveStack) -> dict[str, str]:
    """Return the digest of every file of Pulumi's state."""
    folder = live_stack.cluster.folder / "engine" / "state"
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def main(
    live_stack: LiveStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the stack; returns exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(stacks, "find", lambda _: stack_of(live_stack))
        capsys.readouterr()
        return (ops.__main__.main(["drift", "--stack", "home", *arguments]), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def release(live_stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Adds the objects of `TEMPLATE` to the chart of the release."""
    chart = tmp_path_factory.mktemp("planted") / "chart"
    shutil.copytree(OWN_CHART, chart)
    (chart / "templates" / "planted.yaml").write_text(TEMPLATE)
    live_stack.edit(
        lambda keys: keys.update({"homelab:charts": {"kube-prometheus-stack": str(chart)}})
    )
    assert live_stack.up() == {"update": 1}
    yield
    live_stack.reset()
    live_stack.up()


def test_an_unchanged_stack_has_no_drift_and_the_check_writes_nothing(
    live_stack: LiveStack, main: Callable[..., tuple[int, str, str]]
) -> None:
    before = state_files(live_stack)

    code, out, err = main()
    assert (code, out) == (0, "")
    assert err.splitlines()[2:] == ["no drift"]
    assert state_files(live_stack) == before


def test_fields_changed_by_hand_are_drift_and_undone_by_up(live_stack: LiveStack) -> None:
    before = state_files(live_stack)
    relabelled = {"metadata": {"labels": {"app.kubernetes.io/part-of": "elsewhere"}}}
    ports = {"spec": {"ports": [{"name": "http", "port": 11434, "targetPort": "other"}]}}
    word = base64.b64encode(b"guess-me").decode()
    live_stack.core.patch_namespaced_service("ollama-service", "ollama-stack", ports)
    live_stack.core.delete_namespaced_config_map("ollama-model-job", "ollama-stack")
    live_stack.apps.patch_namespaced_deployment_scale(
        "open-webui", "ollama-stack", {"spec": {"replicas": 0}}
    )
    live_stack.core.patch_namespace("ollama-stack", relabelled)
    live_stack.core.patch_namespaced_secret(
        "grafana-admin", "observability", {"data": {"admin-password": word}}
    )

    assert fields_in(live_stack, "state") == {
        "service ollama-stack/ollama-service": (
            "changed",
            "spec.ports[http].targetPort: got other, want http",
        ),
        "configmap ollama-stack/ollama-model-job": ("deleted",),
        "deployment.apps ollama-stack/open-webui": ("changed", "spec.replicas: got 0, want 1"),
        "namespace ollama-stack": (
            "changed",
            'metadata.labels["app.kubernetes.io/part-of"]: got elsewhere, want homelab',
        ),
        "secret observability/grafana-admin": ("changed", "data.admin-password: value not shown"),
    }
    assert state_files(live_stack) == before

    assert commands(live_stack) == ["make up STACK=home", "pulumi up --skip-preview --stack home"]
    assert live_stack.up() == {"create": 1, "update": 4}
    assert fields_in(live_stack, "state") == {}


def test_a_changed_port_is_undone_by_up_without_preview(
    live_stack: LiveStack, kubectl: Kubectl
) -> None:
    kubectl.add(f"{CORE}/ollama-stack/services/ollama-service", "/spec/ports/0/port", 11435)

    with pytest.raises(CommandError, match="Duplicate value"):
        live_stack.engine.preview()
    assert "pulumi up --skip-preview --stack home" in commands(live_stack)
    # The Automation API runs exactly that.
    assert live_stack.up() == {"update": 1}
    assert fields_in(live_stack, "state") == {}


def expected(edits: Sequence[Edit]) -> set[str]:
    """Return name of the object and expected line of each edit."""
    return {f"{path.rpartition('/')[2]}: {line}" for path, _, _, line in edits}


def test_fields_added_by_hand_are_drift_and_removed_by_the_printed_patches(
    live_stack: LiveStack, kubectl: Kubectl, main: Callable[..., tuple[int, str, str]]
) -> None:
    policy = kubectl.ask("GET", f"{NETWORK}/ollama-stack/networkpolicies/ollama")
    last = str(len(policy["spec"]["ingress"]))
    edits = [(*edit[:3], edit[3].replace("{last}", last)) for edit in STATE]
    for path, pointer, value, _ in edits:
        kubectl.add(path, pointer, value)

    code, out, _ = main()
    assert code == 7
    assert out.count("kubectl-edit, 20") >= len(edits)
    assert "guess-me" not in out
    assert "Z3Vlc3MtbWU=" not in out
    findings, unread = look(live_stack)
    assert unread == []
    assert expected(edits) - lines_of(findings) == set()
    # The API server adds this default to sessionAffinity.
    assert lines_of(findings) - expected(edits) == {
        "ollama-service: spec.sessionAffinityConfig.clientIP.timeoutSeconds: got 10800,"
        " want nothing"
    }
    put_back = [line.partition("  ")[2] for line in out.splitlines() if " patch " in line]
    assert len(put_back) == len(findings)
    for command in put_back:
        kubectl.run(command)
    assert look(live_stack) == ([], [])
    assert live_stack.up() == {}


def test_changed_objects_of_a_release_are_drift_and_undone_by_the_printed_commands(
    live_stack: LiveStack, release: None, kubectl: Kubectl
) -> None:
    del release
    assert look(live_stack) == ([], [])
    for path, pointer, value, _ in RELEASE:
        kubectl.add(path, pointer, value)
    extra = {"name": "extra", "image": "example.invalid/extra:1"}
    changed = {"name": "main", "image": "example.invalid/planted:2"}
    live_stack.apps.patch_namespaced_deployment(
        "planted",
        "observability",
        {"spec": {"template": {"spec": {"containers": [extra, changed]}}}},
    )
    live_stack.core.patch_namespaced_config_map(
        "planted", "observability", {"data": {"empty": "x"}}
    )
    live_stack.core.delete_namespaced_service("planted", "observability")

    findings, unread = look(live_stack)
    assert unread == []
    assert {finding.layer for finding in findings} == {"release observability/kube-prom-stack"}
    assert {finding.where for finding in findings if finding.change == "deleted"} == {
        "observability/planted"
    }
    edits = [edit for edit in RELEASE if "/services/" not in edit[0]]
    assert {line.partition(" (OpenAPI")[0] for line in lines_of(findings)} == expected(edits) | {
        "planted: data.empty: value not shown",
        f"planted: {POD}.containers[extra]: got an object, want nothing",
        f"planted: {POD}.containers[main].image: got example.invalid/planted:2,"
        " want example.invalid/planted:1",
    }
    for command in commands(live_stack):
        kubectl.run(command)
    assert look(live_stack) == ([], [])
    assert live_stack.up() == {}


def add_revision(kubectl: Kubectl, status: str) -> str:
    """Add a revision with this status to the release; return the path of its Secret."""
    newest = releases.revisions(kubectl.cluster, "observability", "kube-prom-stack")[-1]
    secrets = f"{CORE}/observability/secrets"
    record = kubectl.ask("GET", f"{secrets}/{newest.secret}")
    text = gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"])))
    body = json.loads(text)
    body["version"] += 1
    body["info"]["status"] = status
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(body).encode()))).decode()
    name = newest.secret.replace(f".v{newest.number}", f".v{newest.number + 1}")
    labels = {**record["metadata"]["labels"], "status": status, "version": str(body["version"])}
    metadata = {"name": name, "labels": labels}
    secret = {"metadata": metadata, "type": record["type"], "data": {"release": packed}}
    kubectl.ask("POST", secrets, secret)
    return f"{secrets}/{name}"


def test_a_scaled_deployment_of_a_release_is_drift(live_stack: LiveStack, kubectl: Kubectl) -> None:
    grafana = f"{APPS}/observability/deployments/kube-prom-stack-grafana"
    # As kubectl scale does; the API server records no time for it.
    scale = kubectl.ask("GET", f"{grafana}/scale")
    kubectl.ask(
        "PUT", f"{grafana}/scale", {**scale, "spec": {"replicas": 2}}, fieldManager="kubectl"
    )
    live_stack.core.delete_namespaced_config_map("ollama-model-job", "ollama-stack")

    findings, unread = look(live_stack)

    assert unread == []
    assert {finding.where.rpartition("/")[2]: finding.fields for finding in findings} == {
        "kube-prom-stack-grafana": ("spec.replicas: got 2, want 1 (kubectl, scale)",),
        "ollama-model-job": (),
    }
    for command in commands(live_stack):
        if "make up" in command:
            live_stack.up()
        else:
            kubectl.run(command)
    assert look(live_stack) == ([], [])


def test_a_printed_patch_fails_if_the_object_has_changed_since(
    live_stack: LiveStack, kubectl: Kubectl
) -> None:
    role = f"{RBAC}/clusterroles/homelab-reader"
    rule = {"apiGroups": [""], "resources": ["x"], "verbs": ["list"]}
    kubectl.add(role, "/rules/-", rule)
    (command,) = commands(live_stack)
    kubectl.add(role, "/rules/0", rule)

    with pytest.raises(AssertionError, match="422"):
        kubectl.run(command)
    for command in commands(live_stack):
        kubectl.run(command)
    assert look(live_stack) == ([], [])


def test_a_locked_stack_is_reported_with_make_recover(live_stack: LiveStack) -> None:
    folder = live_stack.cluster.folder / "engine/state/.pulumi/locks/organization/homelab/sandbox"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "1234.json"
    since = "2026-07-01T10:00:00Z"
    holder = {"pid": 1, "username": "me", "hostname": "elsewhere", "timestamp": since}
    lock.write_text(json.dumps(holder))
    stack = replace(stack_of(live_stack), name="sandbox")
    try:
        (finding,) = drift.check(stack, stacks.deployment(stack))[0]
    finally:
        lock.unlink()

    assert finding.change == f"the stack is locked by me@elsewhere (pid 1) since {since}"
    assert drift.fix_commands([finding], stack, "x")[0].startswith("make recover")


def test_an_unfinished_release_is_the_only_finding(
    live_stack: LiveStack,
    release: None,
    kubectl: Kubectl,
    main: Callable[..., tuple[int, str, str]],
) -> None:
    del release
    record = add_revision(kubectl, "failed")
    kubectl.add(*RELEASE[1][:3])
    try:
        code, out, _ = main()
    finally:
        kubectl.ask("DELETE", record)

    assert code == 7
    lines = out.splitlines()
    assert re.match(
        r"  helm: release observability/kube-prom-stack: revision \d+ is failed: ", lines[0]
    )
    assert lines[1:] == [
        "",
        "to fix it, run in this order:",
        "  make recover STACK=home",
        "  make up STACK=home",
    ]
    # Without that revision, the objects are compared.
    assert lines_of(look(live_stack)[0]) == expected(RELEASE[1:2])
    for command in commands(live_stack):
        kubectl.run(command)


def test_a_pending_operation_is_reported_with_make_recover(live_stack: LiveStack) -> None:
    stack = stack_of(live_stack)
    state = stacks.deployment(stack)
    (resource, *_) = [
        resource for resource in state["resources"] if resource["type"] == recover.RELEASE
    ]
    pending = [{"type": "creating", "resource": resource}]

    findings, unread = drift.check(stack, {**state, "pending_operations": pending})
    assert unread == []
    assert findings == [
        Finding(
            "pulumi", "resource", "monitoring-release", "an up was interrupted while creating it"
        )
    ]
    assert drift.fix_commands(findings, stack, "any")[0] == "make recover STACK=home"


DENIED = [
    ("POST", f"{CORE}/ollama-stack/configmaps"),
    ("PATCH", f"{CORE}/ollama-stack/services/ollama-service"),
    ("DELETE", f"{CORE}/ollama-stack/pods"),
    ("PUT", f"{CORE}/ollama-stack/secrets/open-webui"),
    ("PATCH", f"{APPS}/ollama-stack/deployments/ollama"),
    ("PATCH", f"{APPS}/ollama-stack/deployments/ollama/scale"),
    ("DELETE", f"{APPS}/ollama-stack/deployments/ollama"),
    ("DELETE", "/api/v1/namespaces/ollama-stack"),
    ("DELETE", "/api/v1/persistentvolumes/ollama-stack-models"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("POST", "/api/v1/namespaces/observability/serviceaccounts/homelab-reader/token"),
    ("POST", f"{CORE}/ollama-stack/pods/any/exec"),
    # Reads that it does not need.
    ("GET", f"{CORE}/ollama-stack/secrets"),
    ("GET", f"{CORE}/ollama-stack/secrets/of-somebody-else"),
    ("GET", f"{CORE}/ollama-stack/services/http:ollama-service:11434/proxy/api/tags"),
    ("GET", "/api/v1/namespaces/kube-system/secrets"),
    ("GET", f"{CORE}/ollama-stack/pods/any/exec"),
]


def test_the_reader_may_write_nothing_and_read_no_other_secrets(live_stack: LiveStack) -> None:
    whole = yaml.safe_load(live_stack.cluster.kubeconfig.read_text())
    cluster = whole["clusters"][0]["cluster"]
    bearer = {"Authorization": f"Bearer {token(live_stack, 'homelab-reader')}"}
    pool = PoolManager(ca_certs=cluster["certificate-authority"], retries=False)

    def ask(method: str, path: str) -> tuple[int, str]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {**bearer, "Content-Type": kind}
        answer = pool.request(method, cluster["server"] + path, body="{}", headers=headers)
        return answer.status, answer.data.decode(errors="replace")

    refused = {(method, path): ask(method, path) for method, path in DENIED}
    assert [request for request, (code, _) in refused.items() if code != 403] == []
    assert [
        request for request, (_, text) in refused.items() if "system:serviceaccount" not in text
    ] == []
    assert ask("GET", f"{APPS}/ollama-stack/deployments/ollama")[0] == 200
    assert ask("GET", f"{CORE}/ollama-stack/secrets/open-webui")[0] == 200


def test_an_account_without_access_to_a_namespace_gets_unread_objects(
    live_stack: LiveStack, tmp_path: Path
) -> None:
    live_stack.core.create_namespaced_service_account(
        "observability", {"metadata": {"name": "half"}}
    )
    subject = {"kind": "ServiceAccount", "name": "half", "namespace": "observability"}
    # The reader's role, in one of the two namespaces.
    role = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "homelab-reader",
    }
    live_stack.rbac.create_namespaced_role_binding(
        "ollama-stack", {"metadata": {"name": "half"}, "roleRef": role, "subjects": [subject]}
    )
    half = tmp_path / "half"
    half.write_text(kubeconfig_of(live_stack, "half"))
    try:
        findings, unread = look(live_stack, account=half)
    finally:
        live_stack.rbac.delete_namespaced_role_binding("half", "ollama-stack")
        live_stack.core.delete_namespaced_service_account("half", "observability")

    assert findings == []
    assert any("/namespaces/observability/secrets: 403" in line for line in unread)


def test_an_unreachable_cluster_is_one_line(
    live_stack: LiveStack, main: Callable[..., tuple[int, str, str]]
) -> None:
    content = live_stack.cluster.kubeconfig.read_text()
    url = yaml.safe_load(content)["clusters"][0]["cluster"]["server"]
    live_stack.cluster.kubeconfig.write_text(content.replace(url, "https://127.0.0.1:1"))
    try:
        code, out, err = main()
    finally:
        live_stack.cluster.kubeconfig.write_text(content)

    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"reading.*\ncomparing \d+ resources\nerror: could not check home: .+\n", err
    )


def test_an_unknown_kind_and_missing_managed_fields_are_unread_objects(
    live_stack: LiveStack, kubectl: Kubectl
) -> None:
    stack = stack_of(live_stack)
    state = stacks.deployment(stack)
    custom = {"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "one"}}
    more = {"type": "kubernetes:example.org/v1:Thing", "id": "one", "inputs": custom}
    cleared = [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]
    path = f"{CORE}/ollama-stack/configmaps/ollama-model-job"
    kubectl.ask("PATCH", path, cleared)
    try:
        findings, unread = drift.check(stack, {**state, "resources": [*state["resources"], more]})
    finally:
        kubectl.ask("DELETE", path)
        live_stack.up()

    assert findings == []
    assert unread == [
        "configmap ollama-stack/ollama-model-job: metadata.managedFields are missing",
        "example.org/v1 Thing one: the API server does not know this kind",
    ]
