"""The doctor on a real API server: a cluster as it should be, and what is planted in it."""

import contextlib
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doctor_lab import STACK, Place, thing, volume
from harness import gpu_config, read, stack_config
from kubernetes.client import ApiClient

from config import Settings
from ops import (
    doctor,
    doctor_cluster,
    doctor_disk,
    doctor_images,
    doctor_laptop,
)
from ops.doctor_checks import Result
from sandbox.apiserver import arguments
from sandbox.build import Tools
from sandbox.cluster import Cluster, Node
from sandbox.engine import Engine

NODE = Node(name="evo4t", cpus=24, memory="93Gi", address="192.168.1.100")
HELM = {"owner": "helm", "name": "kube-prom-stack", "status": "deployed", "version": "1"}
EVERYBODY = """{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
"metadata": {"name": "everybody"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
"kind": "ClusterRole", "name": "cluster-admin"},
"subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "%s"}]}"""
Plant = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def place(cluster: Cluster, tools: Tools) -> Place:
    """The cluster, nothing brought up on it: the stack is made, and nothing in it."""
    engine = Engine(cluster, tools)
    engine.preview()
    return Place(cluster, engine)


def dns(*, ready: bool) -> list[dict[str, Any]]:
    """The cluster's DNS with one server."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    return [
        thing("Service", "kube-dns", "kube-system", spec={"ports": ports}),
        thing(
            "EndpointSlice",
            "kube-dns-1",
            "kube-system",
            apiVersion="discovery.k8s.io/v1",
            metadata={"labels": {doctor_cluster.SERVICE_NAME: "kube-dns"}},
            addressType="IPv4",
            ports=ports,
            endpoints=[{"addresses": ["10.1.0.9"], "conditions": {"ready": ready}}],
        ),
    ]


def calico(mask: str | None) -> dict[str, Any]:
    """Calico's DaemonSet."""
    variables = [{"name": doctor_cluster.MASK, "value": mask}] if mask else []
    labels = {"k8s-app": "calico-node"}
    container = {"name": "calico-node", "image": "calico", "env": variables}
    return thing(
        "DaemonSet",
        "calico-node",
        "kube-system",
        apiVersion="apps/v1",
        spec={
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    )


def test_a_cluster_that_is_ready_passes(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_images, "_ask", lambda _: 200)
    monkeypatch.setattr(doctor_laptop, "at_home", lambda *_: False)
    monkeypatch.setattr(doctor, "find", lambda _: place.house())
    monkeypatch.setattr("shutil.which", lambda _: place.engine._tools.pulumi)
    monkeypatch.setattr("sys.argv", ["doctor", "--json"])

    with place.planted(*dns(ready=True)):
        began = time.monotonic()
        code = doctor.main()
        taken = time.monotonic() - began
    told = json.loads(capsys.readouterr().out)
    levels = {one["name"]: one["level"] for one in told["checks"]}

    assert code == 0
    # The sandbox has the definitions before any chart, runs no container, and is not at home.
    assert {name for name, level in levels.items() if level != "ok"} == {
        "observability",
        "backups",
        "disk",
        "addresses",
    }
    assert set(levels.values()) == {"ok", "warn"}
    print(f"the doctor took {taken:.1f} s")


def test_the_passphrase_is_tried_and_the_stack_file_left_alone(place: Place) -> None:
    house = place.house()
    before = house.stack_file.read_bytes()
    assert place.look("passphrase") == Result("ok", "encrypts")

    file = place.cluster.folder / "engine" / "passphrase"
    good = file.read_text()
    file.write_text("another")
    try:
        wrong = place.look("passphrase")
    finally:
        file.write_text(good)

    assert (wrong.level, "incorrect passphrase" in wrong.text) == ("fail", True)
    assert house.stack_file.read_bytes() == before


def test_who_asks(place: Place, tmp_path: Path) -> None:
    wanted: Any = {"spec": {"expirationSeconds": 3600}}
    accounts = place.kube.resources.get(api_version="v1", kind="ServiceAccount")
    account = accounts.subresources["token"].create(
        name="default", namespace="default", body={**wanted, "kind": "TokenRequest"}
    )
    small = place.kubeconfig_with(tmp_path / "small", account.status.token)
    nobody = place.kubeconfig_with(tmp_path / "nobody", "wrong")

    assert place.look("rights").level == "ok"
    assert place.look("rights", place.house(account=small)).text == (
        "this account may not do everything"
    )
    assert place.look("rights", place.house(account=nobody)).level == "fail"
    # What cannot be asked is not well.
    assert place.look("rbac", place.house(account=small)).level == "warn"


@pytest.mark.parametrize("group", ["system:unauthenticated", "system:serviceaccounts"])
def test_a_cluster_that_lets_everybody_in_is_told(place: Place, group: str) -> None:
    assert place.look("rbac").level == "ok"
    with place.planted(json.loads(EVERYBODY % group)):
        assert place.look("rbac").level == "fail"


def test_a_cluster_without_rbac_is_told(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_to_all(certificates: Path) -> list[str]:
        return [one.replace("Node,RBAC", "AlwaysAllow") for one in arguments(certificates)]

    monkeypatch.setattr("sandbox.cluster.arguments", open_to_all)
    cluster = Cluster(tmp_path, tools)
    try:
        cluster.start([NODE])
        api = ApiClient(doctor_laptop.configuration(cluster.context, cluster.kubeconfig))
        found = doctor_cluster.rbac(api)
    finally:
        cluster.remove()

    assert found.level == "fail"
    assert "system:anonymous may read every Secret" in found.text


def test_dns_that_is_not_there_or_not_ready_is_told(place: Place) -> None:
    assert place.look("dns").text == "there is no Service kube-system/kube-dns"
    with place.planted(*dns(ready=False)):
        assert place.look("dns").text == "kube-system/kube-dns has no server that is ready"
    with place.planted(*dns(ready=True)):
        assert place.look("dns").level == "ok"


@pytest.mark.parametrize(
    ("mask", "level"),
    [(None, "warn"), ("0xff00ff00", "warn"), ("0xff000000", "ok"), ("0xffff0000", "warn")],
)
def test_calico_with_tailscales_bits_is_told(place: Place, mask: str | None, level: str) -> None:
    with place.planted(calico(mask)):
        assert place.look("marks").level == level


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda nodes: nodes.update(other=nodes.pop("evo4t")), "no node other, but evo4t"),
        (lambda nodes: nodes["evo4t"].update(cpus=32), "cpus is 24, less than 32"),
        (lambda nodes: nodes["evo4t"].update(memory="128Gi"), "memory is 93.0Gi, less than 128Gi"),
        (lambda nodes: nodes["evo4t"].update(address="192.168.1.7"), "address is 192.168.1.100"),
    ],
)
def test_a_node_that_is_not_as_written_is_told(
    place: Place, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    raw = copy.deepcopy(stack_config(STACK))
    change(raw["nodes"])
    found = place.look("nodes", place.house(raw))

    assert found.level == "fail"
    assert told in found.text


def test_a_label_that_keeps_metallb_silent_is_told(place: Place) -> None:
    nodes = place.kube.resources.get(api_version="v1", kind="Node")

    def mark(value: str | None) -> None:
        labels = {doctor_cluster.NO_ADDRESSES: value}
        body = {"metadata": {"name": NODE.name, "labels": labels}}
        nodes.patch(body=body, content_type="application/merge-patch+json")

    mark("")
    try:
        assert "keeps MetalLB silent" in place.look("nodes").text
    finally:
        mark(None)
    assert place.look("nodes").level == "ok"


def test_a_gpu_that_no_plugin_offers_is_told(place: Place) -> None:
    wanted = place.house(gpu_config(STACK))
    assert place.look("gpu").text == "models run on the processor"
    missing = place.look("gpu", wanted)
    assert (missing.level, "offers no amd.com/gpu" in missing.text) == ("fail", True)

    nodes = place.kube.resources.get(api_version="v1", kind="Node").subresources["status"]
    for count, level in (("1", "ok"), ("0", "fail"), (None, "fail")):
        room = {"amd.com/gpu": count}
        # As a kubelet does for a device plugin.
        body = {"status": {"capacity": room, "allocatable": room}}
        nodes.patch(name="evo4t", body=body, content_type="application/merge-patch+json")
        assert place.look("gpu", wanted).level == level


def test_a_release_of_the_addon_and_its_leftovers_are_told(place: Place) -> None:
    name = "sh.helm.release.v1.kube-prom-stack.v1"
    secret = thing("Secret", name, "default", metadata={"labels": HELM})
    with place.planted(secret):
        found = place.look("observability")
    assert (found.level, "default/kube-prom-stack" in found.text) == ("fail", True)

    orphan = "kube-prom-stack-kubelet"
    ports = [{"name": "https", "port": 10250}]
    with place.planted(thing("Service", orphan, "kube-system", spec={"ports": ports})):
        found = place.look("observability")
    assert (found.level, orphan in found.text) == ("warn", True)
    assert orphan not in place.look("observability").text


def test_metallb_of_the_addon_is_in_the_way_of_the_charts(place: Place) -> None:
    raw = copy.deepcopy(stack_config(STACK))
    assert place.look("metallb").level == "ok"
    raw["network"]["metallb"] = "helm"
    found = place.look("metallb", place.house(raw))

    assert found.level == "fail"
    assert "namespace metallb-system" in found.text


@pytest.mark.parametrize(
    ("planted", "told"),
    [
        (
            thing(
                "StorageClass",
                "local-path",
                apiVersion="storage.k8s.io/v1",
                provisioner="rancher.io/local-path",
            ),
            "StorageClass local-path is there already",
        ),
        (volume("ollama-stack-models", "/elsewhere"), "ollama-stack-models is there already"),
        (volume("another", "/mnt/evo4t/models"), "another has /mnt/evo4t/models"),
        (volume("above", "/mnt/evo4t"), "above has /mnt/evo4t, where /mnt/evo4t/models is to be"),
    ],
    ids=["class", "volume", "directory", "directory above"],
)
def test_what_is_taken_already_is_told(place: Place, planted: dict[str, Any], told: str) -> None:
    with place.planted(planted):
        found = place.look("names")

    assert found.level == "fail"
    assert told in found.text


def test_an_address_that_another_service_or_pool_has_is_told(
    place: Place, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    metallb = {"apiVersion": "metallb.io/v1beta1"}
    addresses = ["192.168.1.102-192.168.1.120"]
    pool = thing(
        "IPAddressPool", "theirs", "metallb-system", **metallb, spec={"addresses": addresses}
    )
    asked = {"annotations": {"metallb.io/loadBalancerIPs": "192.168.1.102"}}
    spec = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    service = thing("Service", "theirs", "default", metadata=asked, spec=spec)
    with place.planted(pool, service):
        found = eventually(lambda: "Service" in (one := place.look("addresses")).text and one)

    assert found.level == "fail"
    assert "192.168.1.102 is Service default/theirs's" in found.text
    assert f"IPAddressPool theirs has {addresses[0]} too" in found.text


def test_the_disks_job_is_taken_by_the_server_and_goes(
    place: Place, eventually: Callable[[Callable[[], Any]], Any]
) -> None:
    jobs = place.kube.resources.get(api_version="batch/v1", kind="Job")
    pods = place.kube.resources.get(api_version="v1", kind="Pod")
    settings: Settings = read(stack_config(STACK))
    wanted = doctor_disk.job(settings, NODE.name)
    admitted = jobs.create(body=wanted, namespace="default", dry_run="All").to_dict()
    template = admitted["spec"]["template"]["spec"]
    assert template["volumes"][0]["hostPath"] == {"path": "/mnt", "type": "Directory"}
    assert template["containers"][0]["command"][2] == doctor_disk.PROGRAM.read_text()

    found = place.look("disk")

    # A simulated pod ends without having run: that is not well.
    assert (found.level, "ended without a word" in found.text) == ("warn", True)

    def left() -> list[Any]:
        there = [*jobs.get(namespace="default").items, *pods.get(namespace="default").items]
        return [one for one in there if one.metadata.name.startswith("homelab-doctor")]

    assert eventually(lambda: not left())


def test_a_namespace_that_refuses_the_disks_pod_is_told(place: Place) -> None:
    namespaces = place.kube.resources.get(api_version="v1", kind="Namespace")

    def enforce(level: str | None) -> None:
        labels = {"pod-security.kubernetes.io/enforce": level}
        body = {"metadata": {"name": "default", "labels": labels}}
        namespaces.patch(body=body, content_type="application/merge-patch+json")

    enforce("baseline")
    try:
        found = place.look("disk")
    finally:
        enforce(None)

    assert found.level == "warn"
    assert 'violates PodSecurity "baseline:latest"' in found.text
