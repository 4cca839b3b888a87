"""The doctor on a real API server: a cluster as it should be, and what is planted in it."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from doctor_lab import STACK, Place, thing
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
    """The cluster, nothing brought up on it: the stack is made, and nothing in it."""
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
    # The sandbox has the definitions before any chart, and is not at home.
    assert {line[1] for line in lines if line[0] == "warn"} == {"addons", "addresses"}
    well = {"api", "state", "rbac", "marks", "nodes", "releases", "names"}
    assert {line[1] for line in lines if line[0] == "ok"} == well
    assert lines[-1][:8] == ["0", "fail,", "2", "warn,", "7", "ok,", "6", "skipped;"]


def test_who_asks(place: Place, tmp_path: Path) -> None:
    accounts = place.kube.resources.get(api_version="v1", kind="ServiceAccount")
    made = accounts.subresources["token"].create(
        name="default", namespace="default", body={"kind": "TokenRequest", "spec": {}}
    )

    def account(token: str) -> Path:
        whole = json.loads(place.cluster.kubeconfig.read_text())
        whole["users"][0]["user"] = {"token": token}
        (tmp_path / "kubeconfig").write_text(json.dumps(whole))
        return tmp_path / "kubeconfig"

    assert place.problems(doctor.rbac) == []
    assert place.problems(doctor.rbac, account=account(made.status.token)) == [
        "the kubeconfig's user may not do everything"
    ]
    with pytest.raises(UnreadableError, match="selfsubjectaccessreviews: 401"):
        place.problems(doctor.rbac, account=account("wrong"))


@pytest.mark.parametrize("group", ["system:unauthenticated", "system:serviceaccounts"])
def test_a_cluster_that_lets_everybody_in_fails(place: Place, group: str) -> None:
    with place.planted(json.loads(EVERYBODY % group)):
        (problem,) = place.problems(doctor.rbac)

    assert problem.endswith("any pod may list Secrets")


@pytest.mark.parametrize(
    ("mask", "count"), [(None, 1), ("0xff00ff00", 1), ("0xff000000", 0), ("0xffff0000", 1)]
)
def test_calico_with_the_bits_of_others_warns(place: Place, mask: str | None, count: int) -> None:
    variables = [{"name": doctor.MASK, "value": mask}] if mask else []
    pod = {"containers": [{"name": "calico-node", "image": "calico", "env": variables}]}
    labels = {"k8s-app": "calico-node"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    calico = thing("DaemonSet", "calico-node", "kube-system", apiVersion="apps/v1", spec=spec)
    with place.planted(calico):
        found = place.problems(doctor.marks)

    assert [type(problem) for problem in found] == [Warn] * count


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("other", {}, 'nodes "other" not found, but evo4t'),
        ("evo4t", {"cpus": 32}, "evo4t: cpu: got 24, want 32"),
        ("evo4t", {"memory": "128Gi"}, "evo4t: memory: got 93Gi, want 128Gi"),
    ],
)
def test_a_node_that_is_not_as_written_fails(
    place: Place, name: str, size: dict[str, Any], problem: str
) -> None:
    raw = stack_config(STACK)
    raw["nodes"] = {name: {**raw["nodes"]["evo4t"], **size}}

    assert place.problems(doctor.nodes, raw) == [problem]


def test_a_gpu_that_no_plugin_offers_is_told(place: Place) -> None:
    wanted, missing = gpu_config(STACK), ["evo4t: amd.com/gpu: got 0, want 1"]
    assert place.problems(doctor.nodes, wanted) == missing

    nodes = place.kube.resources.get(api_version="v1", kind="Node").subresources["status"]
    # As a kubelet does for a device plugin that comes, and goes again.
    for capacity, count, problems in (("1", "1", []), ("1", "0", missing), (None, None, missing)):
        sizes = {"capacity": {"amd.com/gpu": capacity}, "allocatable": {"amd.com/gpu": count}}
        body = {"status": sizes}
        nodes.patch(name="evo4t", body=body, content_type="application/merge-patch+json")
        assert place.problems(doctor.nodes, wanted) == problems


def test_a_release_of_the_addon_and_its_leftovers_are_in_the_way(place: Place) -> None:
    name = "sh.helm.release.v1.kube-prom-stack.v1"
    secret = thing("Secret", name, "default", metadata={"labels": HELM})
    with place.planted(secret):
        assert "release default/kube-prom-stack is not the stack's" in place.problems(doctor.addons)

    orphan = "kube-prom-stack-kubelet"
    ports = [{"name": "https", "port": 10250}]
    with place.planted(thing("Service", orphan, "kube-system", spec={"ports": ports})):
        found = place.problems(doctor.addons)
    assert f"{orphan} is left by a release" in found
    assert {type(problem) for problem in found} == {Warn}
