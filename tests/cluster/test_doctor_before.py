"""`make doctor` before the first `up`, on a real API server."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from doctor_lab import STACK, Place, manifest
from harness import gpu_config, stack_config

from ops import doctor, stacks
from ops.cluster import UnreadableError
from ops.doctor_server import Warn
from sandbox.build import Tools
from sandbox.cluster import Cluster
from sandbox.engine import Engine

HELM = {"owner": "helm", "name": "kube-prom-stack", "status": "deployed", "version": "1"}
EVERYBODY = """{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
"metadata": {"name": "everybody"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
"kind": "ClusterRole", "name": "cluster-admin"},
"subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "%s"}]}"""


@pytest.fixture(scope="module")
def place(cluster: Cluster, tools: Tools) -> Place:
    """The cluster with an empty stack."""
    engine = Engine(cluster, tools)
    engine.preview()
    return Place(cluster, engine)


def test_a_cluster_that_is_ready_passes(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "is_in_lan", lambda _: False)
    monkeypatch.setattr(stacks, "find", lambda _: place.stack)

    code = doctor.run(argparse.Namespace(stack=STACK))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]

    assert code == 0
    # The sandbox has the CRDs before any chart, and is not in the LAN.
    assert {line[1] for line in lines if line[0] == "warn"} == {"addons", "addresses"}
    ok = {"api", "state", "rbac", "marks", "nodes", "releases", "names"}
    assert {line[1] for line in lines if line[0] == "ok"} == ok
    counts = "0 fail, 2 warn, 7 ok, 7 skipped until the first up;"
    assert " ".join(lines[-1]).startswith(counts)


def test_an_account_that_is_no_admin_fails(place: Place, tmp_path: Path) -> None:
    accounts = place.kube.resources.get(api_version="v1", kind="ServiceAccount")
    response = accounts.subresources["token"].create(
        name="default", namespace="default", body={"kind": "TokenRequest", "spec": {}}
    )

    def account(token: str) -> Path:
        kubeconfig = yaml.safe_load(place.cluster.kubeconfig.read_text())
        kubeconfig["users"][0]["user"] = {"token": token}
        (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
        return tmp_path / "kubeconfig"

    assert place.problems(doctor.rbac) == []
    assert place.problems(doctor.rbac, account=account(response.status.token)) == [
        "the kubeconfig's user is not a cluster admin"
    ]
    with pytest.raises(UnreadableError, match="selfsubjectaccessreviews: 401"):
        place.problems(doctor.rbac, account=account("wrong"))


@pytest.mark.parametrize("group", ["system:unauthenticated", "system:serviceaccounts"])
def test_a_cluster_where_every_account_is_admin_fails(place: Place, group: str) -> None:
    with place.created(json.loads(EVERYBODY % group)):
        (problem,) = place.problems(doctor.rbac)

    assert problem.endswith("any pod may list Secrets")


@pytest.mark.parametrize(
    ("mask", "count"), [(None, 1), ("0xff00ff00", 1), ("0xff000000", 0), ("0xffff0000", 1)]
)
def test_calico_with_the_mark_bits_of_tailscale_warns(
    place: Place, mask: str | None, count: int
) -> None:
    variables = [{"name": doctor.MASK, "value": mask}] if mask else []
    pod = {"containers": [{"name": "calico-node", "image": "calico", "env": variables}]}
    labels = {"k8s-app": "calico-node"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    calico = manifest("DaemonSet", "calico-node", "kube-system", apiVersion="apps/v1", spec=spec)
    with place.created(calico):
        results = place.problems(doctor.marks)

    assert [type(problem) for problem in results] == [Warn] * count


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("other", {}, 'nodes "other" not found, but evo4t'),
        ("evo4t", {"cpus": 32}, "evo4t: cpu: got 24, want 32"),
        ("evo4t", {"memory": "128Gi"}, "evo4t: memory: got 93Gi, want 128Gi"),
    ],
)
def test_a_node_that_differs_from_the_stack_file_fails(
    place: Place, name: str, size: dict[str, Any], problem: str
) -> None:
    raw = stack_config(STACK)
    raw["nodes"] = {name: {**raw["nodes"]["evo4t"], **size}}

    assert place.problems(doctor.nodes, raw) == [problem]


def test_a_gpu_that_no_device_plugin_offers_fails(place: Place) -> None:
    config, problem = gpu_config(STACK), ["evo4t: amd.com/gpu: got 0, want 1"]
    assert place.problems(doctor.nodes, config) == problem

    nodes = place.kube.resources.get(api_version="v1", kind="Node").subresources["status"]
    # As a kubelet does when a device plugin registers, and when it has gone.
    for capacity, count, problems in (("1", "1", []), ("1", "0", problem), (None, None, problem)):
        sizes = {"capacity": {"amd.com/gpu": capacity}, "allocatable": {"amd.com/gpu": count}}
        body = {"status": sizes}
        nodes.patch(name="evo4t", body=body, content_type="application/merge-patch+json")
        assert place.problems(doctor.nodes, config) == problems


def test_a_release_of_the_addon_and_its_leftovers_warn(place: Place) -> None:
    name = "sh.helm.release.v1.kube-prom-stack.v1"
    secret = manifest("Secret", name, "default", metadata={"labels": HELM})
    with place.created(secret):
        assert "release default/kube-prom-stack was not installed by this stack" in place.problems(
            doctor.addons
        )

    orphan = "kube-prom-stack-kubelet"
    ports = [{"name": "https", "port": 10250}]
    with place.created(manifest("Service", orphan, "kube-system", spec={"ports": ports})):
        results = place.problems(doctor.addons)
    assert f"{orphan} remains from a removed release" in results
    assert {type(problem) for problem in results} == {Warn}
