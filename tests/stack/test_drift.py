"""Drift, planted by hand on the program as the real engine has applied it."""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from house_lab import House
from urllib3 import PoolManager

import ops.__main__
import ops.cluster
from ops import drift, drift_declared, drift_release, stacks
from ops.stacks import Stack
from sandbox.build import Tools
from sandbox.engine import OWN_CHART

TEMPLATE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: planted}
data: {key: "1"}
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
          env: [{name: A, value: "1"}]
          resources: {requests: {cpu: 0.05, memory: 1024Ki}, limits: {}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: planted}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: planted, namespace: observability}
spec: {groups: [{name: planted, rules: [{alert: Planted, expr: vector(1)}]}]}
"""


def stack_of(house: House, account: Path | None = None) -> Stack:
    """Give the stack to look at, by the account that is in this kubeconfig."""
    chosen = account or house.cluster.kubeconfig
    return Stack(name="sandbox", cli=house.engine.cli, kubeconfig=chosen, simulated=True)


def look(house: House, account: Path | None = None) -> drift.Report:
    """Look for drift."""
    return drift.check(stack_of(house, account), drift_declared.state(house.engine.cli))


def found_in(house: House, layer: str) -> dict[str, tuple[str, ...]]:
    """Look for drift, and give it by object, each with what is different; all of one layer."""
    report = look(house)
    assert report.unread == []
    assert {one.layer for one in report.findings} <= {layer}
    return {f"{one.kind} {one.where}": (one.change, *one.fields) for one in report.findings}


def token(house: House, name: str, namespace: str = "observability") -> str:
    """Ask for a token of an account, as `kubectl create token` does."""
    wanted = {"spec": {"expirationSeconds": 3600}}
    made = house.core.create_namespaced_service_account_token(name, namespace, wanted)
    return str(made.status.token)


def kubeconfig_of(house: House, name: str) -> str:
    """Give a kubeconfig of the same cluster for another account."""
    whole = json.loads(house.cluster.kubeconfig.read_text())
    whole["users"][0]["user"] = {"token": token(house, name)}
    return json.dumps(whole)


def state_files(house: House) -> dict[str, str]:
    """Give the digest of every file of Pulumi's state."""
    folder = house.cluster.folder / "engine" / "state"
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def main(
    house: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command on the house, and gives exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(stacks, "find", lambda _: stack_of(house))
        capsys.readouterr()
        return (ops.__main__.main(["drift", *arguments]), *capsys.readouterr())

    return run


@pytest.fixture
def release(house: House, tmp_path: Path) -> Iterator[int]:
    """The chart's release with a few objects more, as Helm makes them; how many it has."""
    chart = tmp_path / "chart"
    shutil.copytree(OWN_CHART, chart)
    (chart / "templates" / "planted.yaml").write_text(TEMPLATE)
    house.edit(lambda keys: keys.update({"homelab:charts": {"kube-prometheus-stack": str(chart)}}))
    assert house.up() == {"update": 1}
    yield 29
    house.reset()
    house.up()


def test_a_clean_stack_is_one_line_beside_an_empty_report(
    house: House, main: Callable[..., tuple[int, str, str]]
) -> None:
    before = state_files(house)

    code, out, err = main()
    assert (code, out) == (0, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("no drift: ")
    assert "24 of releases" in err
    assert state_files(house) == before


def test_what_was_changed_by_hand_is_named_and_put_back(
    house: House, main: Callable[..., tuple[int, str, str]]
) -> None:
    before = state_files(house)
    relabelled = {"metadata": {"labels": {"app.kubernetes.io/part-of": "elsewhere"}}}
    ports = {"spec": {"ports": [{"name": "http", "port": 11434, "targetPort": "other"}]}}
    word = base64.b64encode(b"guess-me").decode()
    house.core.patch_namespaced_service("ollama-service", "ollama-stack", ports)
    house.core.delete_namespaced_config_map("ollama-model-job", "ollama-stack")
    house.apps.patch_namespaced_deployment_scale(
        "open-webui", "ollama-stack", {"spec": {"replicas": 0}}
    )
    house.core.patch_namespace("ollama-stack", relabelled)
    house.core.patch_namespaced_secret(
        "grafana-admin", "observability", {"data": {"admin-password": word}}
    )

    assert found_in(house, "declared") == {
        "service ollama-stack/ollama-service": (
            "changed",
            "spec.ports[0].targetPort: http, is other",
        ),
        "configmap ollama-stack/ollama-model-job": ("deleted",),
        "deployment.apps ollama-stack/open-webui": ("changed", "spec.replicas: 1, is 0"),
        "namespace ollama-stack": (
            "changed",
            'metadata.labels["app.kubernetes.io/part-of"]: homelab, is elsewhere',
        ),
        "secret observability/grafana-admin": ("changed", "data.admin-password"),
    }
    code, out, err = main("--json")
    told = json.loads(out)
    assert (code, told["code"], err) == (7, 7, "")
    assert len(told["findings"]) == 5
    assert word not in out
    assert state_files(house) == before

    assert main()[1].count("\n  make up\n") == 1
    # A Secret is never changed in place.
    assert house.up() == {"create": 1, "update": 3, "replace": 1}
    assert found_in(house, "declared") == {}


def test_the_objects_of_a_release_are_no_drift_as_long_as_they_are_as_helm_made_them(
    house: House, release: int
) -> None:
    report = look(house)

    assert report.findings == []
    assert report.code == 0
    assert f"{release} of releases" in report.looked_at


def test_what_was_changed_inside_a_release_is_named(house: House, release: int) -> None:
    assert release
    house.core.patch_namespaced_config_map("planted", "observability", {"data": {"key": "2"}})
    house.core.delete_namespaced_service("planted", "observability")
    house.rbac.delete_cluster_role("planted")
    extra = {"name": "extra", "image": "example.invalid/extra:1"}
    changed = {"name": "main", "image": "example.invalid/planted:2"}
    house.apps.patch_namespaced_deployment(
        "planted",
        "observability",
        {"spec": {"template": {"spec": {"hostNetwork": True, "containers": [extra, changed]}}}},
    )

    pod = "spec.template.spec"
    assert found_in(house, "release") == {
        "configmap observability/planted": ("changed", "data.key"),
        "service observability/planted": ("deleted",),
        "clusterrole.rbac.authorization.k8s.io planted": ("deleted",),
        "deployment.apps observability/planted": (
            "changed",
            f"{pod}.hostNetwork: False, is True",
            f"{pod}.containers[main].image: example.invalid/planted:1,"
            " is example.invalid/planted:2",
            f"{pod}.containers[extra]: not there, is there",
        ),
    }


def test_definitions_of_others_come_through_the_api_server_without_a_difference(
    house: House, tools: Tools
) -> None:
    view = ops.cluster.Cluster(house.cluster.context, house.cluster.kubeconfig)
    made = [one for file in tools.crds() for one in drift_release.documents(file.read_text())]

    assert len(made) > 10
    assert drift_release.findings(view, made) == []


def test_the_account_of_the_house_is_enough(
    house: House, release: int, main: Callable[..., tuple[int, str, str]]
) -> None:
    assert release
    mine = house.cluster.kubeconfig.read_text()
    house.core.delete_namespaced_config_map("ollama-model-job", "ollama-stack")
    house.core.patch_namespaced_config_map("planted", "observability", {"data": {"key": "2"}})
    reader = kubeconfig_of(house, "homelab-reader")
    try:
        # The engine's plugins too have no other account now.
        house.cluster.kubeconfig.write_text(reader)
        code, out, err = main("--json")
    finally:
        house.cluster.kubeconfig.write_text(mine)
    assert (code, err) == (7, "")
    assert [(one["layer"], one["name"]) for one in json.loads(out)["findings"]] == [
        ("declared", "ollama-model-job"),
        ("release", "planted"),
    ]
    house.up()


CORE = "/api/v1/namespaces/ollama-stack"
WORKLOADS = "/apis/apps/v1/namespaces/ollama-stack"
DENIED = [
    ("POST", f"{CORE}/configmaps"),
    ("PATCH", f"{CORE}/services/ollama-service"),
    ("DELETE", f"{CORE}/pods"),
    ("PUT", f"{CORE}/secrets/open-webui"),
    ("PATCH", f"{WORKLOADS}/deployments/ollama"),
    ("PATCH", f"{WORKLOADS}/deployments/ollama/scale"),
    ("DELETE", f"{WORKLOADS}/deployments/ollama"),
    ("DELETE", "/api/v1/namespaces/ollama-stack"),
    ("DELETE", "/api/v1/persistentvolumes/ollama-stack-models"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"),
    ("POST", "/api/v1/namespaces/observability/serviceaccounts/homelab-reader/token"),
    ("POST", f"{CORE}/pods/any/exec"),
    # What it needs not see.
    ("GET", f"{CORE}/secrets"),
    ("GET", f"{CORE}/secrets/of-somebody-else"),
    ("GET", f"{CORE}/services/http:ollama-service:11434/proxy/api/tags"),
    ("GET", "/api/v1/namespaces/kube-system/secrets"),
    ("GET", f"{CORE}/pods/any/exec"),
]


def test_the_account_of_the_house_can_write_nothing(house: House) -> None:
    whole = json.loads(house.cluster.kubeconfig.read_text())
    where = whole["clusters"][0]["cluster"]
    authority = base64.b64decode(where["certificate-authority-data"]).decode()
    bearer = {"Authorization": f"Bearer {token(house, 'homelab-reader')}"}
    pool = PoolManager(ca_cert_data=authority, retries=False)

    def ask(method: str, path: str) -> tuple[int, str]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {**bearer, "Content-Type": kind}
        answer = pool.request(method, where["server"] + path, body="{}", headers=headers)
        return answer.status, answer.data.decode(errors="replace")

    refused = {(method, path): ask(method, path) for method, path in DENIED}
    assert [asked for asked, (code, _) in refused.items() if code != 403] == []
    assert [
        asked for asked, (_, text) in refused.items() if "system:serviceaccount" not in text
    ] == []
    assert ask("GET", f"{WORKLOADS}/deployments/ollama")[0] == 200
    assert ask("GET", f"{CORE}/secrets/open-webui")[0] == 200


def test_what_could_not_be_read_is_never_no_drift(house: House, tmp_path: Path) -> None:
    house.core.create_namespaced_service_account("observability", {"metadata": {"name": "half"}})
    subject = {"kind": "ServiceAccount", "name": "half", "namespace": "observability"}
    # All that the real account has, but in one namespace of the two.
    role = {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "homelab-reader",
    }
    house.rbac.create_namespaced_role_binding(
        "ollama-stack", {"metadata": {"name": "half"}, "roleRef": role, "subjects": [subject]}
    )
    half = tmp_path / "half"
    half.write_text(kubeconfig_of(house, "half"))
    try:
        report = look(house, account=half)
    finally:
        house.rbac.delete_namespaced_role_binding("half", "ollama-stack")
        house.core.delete_namespaced_service_account("half", "observability")

    assert report.findings == []
    assert report.code == 1
    assert any("/namespaces/observability/secrets: 403" in line for line in report.unread)


def test_a_cluster_that_is_away_is_one_line(
    house: House, main: Callable[..., tuple[int, str, str]]
) -> None:
    mine = house.cluster.kubeconfig.read_text()
    where = json.loads(mine)["clusters"][0]["cluster"]["server"]
    house.cluster.kubeconfig.write_text(mine.replace(where, "https://127.0.0.1:1"))
    try:
        code, out, err = main()
    finally:
        house.cluster.kubeconfig.write_text(mine)

    assert (code, out) == (1, "")
    assert err.startswith("error: could not check sandbox: ")
    assert len(err.splitlines()) == 1
