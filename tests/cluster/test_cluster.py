"""What is real in the cluster, and that starting it again heals whatever happened to it."""

import http.client
import os
import shutil
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from kubernetes.dynamic import DynamicClient

from sandbox.build import Tools
from sandbox.cluster import NAMES, Cluster, Node
from sandbox.processes import SandboxError

Eventually = Callable[[Callable[[], Any]], Any]
Connect = Callable[[Cluster], DynamicClient]

PAUSE = {"name": "pause", "image": "pause:1"}


@pytest.fixture(scope="module")
def second(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another cluster, to be mistreated."""
    cluster = Cluster(tmp_path_factory.mktemp("second"), tools)
    yield cluster
    cluster.remove()


def create(kube: DynamicClient, version: str, kind: str, name: str, **content: Any) -> Any:
    """Create one object in the default namespace."""
    resource = kube.resources.get(api_version=version, kind=kind)
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}} | content
    return resource.create(body=body, namespace="default" if resource.namespaced else None)


def read(kube: DynamicClient, version: str, kind: str, name: str) -> Any:
    """Read one object of the default namespace."""
    resource = kube.resources.get(api_version=version, kind=kind)
    return resource.get(name=name, namespace="default" if resource.namespaced else None)


def deployment(name: str, cpu: str) -> dict[str, Any]:
    """Give the spec of one pod that asks for `cpu`."""
    container = PAUSE | {"resources": {"requests": {"cpu": cpu}}}
    return {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
    }


def pods(kube: DynamicClient, app: str) -> list[Any]:
    """List the pods of `app` in the default namespace."""
    found = kube.resources.get(api_version="v1", kind="Pod")
    return list(found.get(namespace="default", label_selector=f"app={app}").items)


def test_pods_run_on_the_node_as_long_as_there_is_room(
    kube: DynamicClient, eventually: Eventually, home: Node
) -> None:
    for name, cpu in {"fits": "20", "too-big": "25"}.items():
        create(kube, "apps/v1", "Deployment", name, spec=deployment(name, cpu))

    assert eventually(lambda: [p.status.phase for p in pods(kube, "fits")] == ["Running"])
    pod = pods(kube, "fits")[0]
    assert (pod.spec.nodeName, pod.status.hostIP) == (home.name, home.address)
    assert eventually(lambda: pods(kube, "too-big")[0].status.conditions)
    assert "Insufficient cpu" in pods(kube, "too-big")[0].status.conditions[0].message


def test_a_job_completes(kube: DynamicClient, eventually: Eventually) -> None:
    spec = {"containers": [PAUSE], "restartPolicy": "Never"}
    create(kube, "batch/v1", "Job", "pull", spec={"template": {"spec": spec}})
    assert eventually(lambda: read(kube, "batch/v1", "Job", "pull").status.succeeded == 1)


def test_a_service_gets_the_address_it_asks_for(
    kube: DynamicClient, eventually: Eventually
) -> None:
    pools = kube.resources.get(api_version="metallb.io/v1beta1", kind="IPAddressPool")
    pool = {"apiVersion": pools.group_version, "kind": pools.kind, "metadata": {"name": "home"}}
    addresses = {"spec": {"addresses": ["192.168.1.101-192.168.1.110"]}}
    pools.create(body=pool | addresses, namespace="metallb-system")

    wish = {"name": "chat", "annotations": {"metallb.io/loadBalancerIPs": "192.168.1.107"}}
    spec = {"type": "LoadBalancer", "selector": {"app": "chat"}, "ports": [{"port": 80}]}
    create(kube, "v1", "Service", "chat", metadata=wish, spec=spec)

    def given() -> list[str]:
        ingress = read(kube, "v1", "Service", "chat").status.loadBalancer.ingress
        return [one.ip for one in ingress or []]

    assert eventually(given) == ["192.168.1.107"]
    # Other tests on this cluster have pools of their own.
    kube.resources.get(api_version="v1", kind="Service").delete(name="chat", namespace="default")
    pools.delete(name="home", namespace="metallb-system")


def test_a_static_local_volume_binds(
    kube: DynamicClient, eventually: Eventually, home: Node
) -> None:
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [home.name]}
    size = {"storage": "200Gi"}
    common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "local"}
    volume = common | {
        "capacity": size,
        "local": {"path": "/srv/models"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
    }
    claim = common | {"resources": {"requests": size}, "volumeName": "models"}
    create(kube, "v1", "PersistentVolume", "models", spec=volume)
    create(kube, "v1", "PersistentVolumeClaim", "models", spec=claim)

    def phase() -> str:
        return str(read(kube, "v1", "PersistentVolumeClaim", "models").status.phase)

    assert eventually(lambda: phase() == "Bound"), phase()


def test_pod_security_is_enforced(kube: DynamicClient) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    create(kube, "v1", "Namespace", "strict", metadata={"name": "strict", "labels": labels})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    with pytest.raises(Exception, match="violates PodSecurity"):
        kube.resources.get(api_version="v1", kind="Pod").create(
            body=pod | {"spec": {"containers": [PAUSE]}}, namespace="strict"
        )


def test_the_kubeconfig_is_private_and_the_server_is_verified(
    cluster: Cluster, connect: Connect
) -> None:
    secrets = [cluster.kubeconfig, cluster.folder / "token"]
    assert [oct(path.stat().st_mode & 0o777) for path in secrets] == ["0o600", "0o600"]

    loaded = connect(cluster).client.configuration
    assert loaded.verify_ssl
    host, _, port = loaded.host.removeprefix("https://").partition(":")
    verified = ssl.create_default_context(cafile=loaded.ssl_ca_cert)
    # Python 3.13 asks for this by default.
    verified.verify_flags |= ssl.VERIFY_X509_STRICT

    def ask(context: ssl.SSLContext) -> int:
        connection = http.client.HTTPSConnection(host, int(port), timeout=10, context=context)
        connection.request("GET", "/api", headers={"Authorization": "Bearer wrong"})
        status = connection.getresponse().status
        connection.close()
        return status

    assert ask(verified) == http.HTTPStatus.UNAUTHORIZED
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(ssl.create_default_context())


def test_without_its_kubeconfig_a_cluster_does_not_count_as_running(cluster: Cluster) -> None:
    away = cluster.kubeconfig.with_suffix(".away")
    cluster.kubeconfig.rename(away)
    # So the next start ends what is left of it, and writes the file again.
    assert not cluster.running()
    away.rename(cluster.kubeconfig)
    assert cluster.running()


def test_starting_a_running_cluster_changes_nothing(cluster: Cluster, home: Node) -> None:
    before, begun = cluster.status(), time.monotonic()
    cluster.start([home])
    assert (cluster.status(), time.monotonic() - begun < 2) == (before, True)
    assert 0 < cluster.memory() < 1.2 * 2**30


def test_a_start_that_fails_names_process_and_log(tmp_path: Path, tools: Tools, home: Node) -> None:
    broken = tmp_path / "tools" / "bin" / "kube"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho first\necho no such luck\nexit 1\n")
    broken.chmod(0o755)
    cluster = Cluster(tmp_path / "state", Tools(tmp_path / "tools", tools.pulumi, {}))
    rest = tmp_path / "state" / "data" / "rest"
    rest.parent.mkdir(parents=True)
    rest.touch()

    with pytest.raises(SandboxError) as failure:
        cluster.start([home])

    log = tmp_path / "state" / "logs" / "etcd.log"
    assert str(failure.value).startswith(f"etcd ended; {log} ends with: no such luck")
    assert not cluster.running()
    assert not rest.exists()


def test_two_clusters_run_at_once_and_nodes_come_and_go(
    cluster: Cluster, second: Cluster, eventually: Eventually, connect: Connect, home: Node
) -> None:
    nodes = [home, Node(name="spare", cpus=4, memory="8Gi", address="192.168.1.99")]
    second.start(nodes)
    assert cluster.running()
    assert second.running()

    kube = connect(second)
    resource = kube.resources.get(api_version="v1", kind="Node")

    def ready() -> list[str]:
        return [
            node.metadata.name
            for node in resource.get().items
            if ("Ready", "True") in [(c.type, c.status) for c in node.status.conditions or []]
        ]

    assert eventually(lambda: ready() == ["evo4t", "spare"]), ready()
    second.start(nodes[:1])
    assert ready() == ["evo4t"]

    # With its node the pod goes in which MetalLB's controller believes itself.
    controller = kube.resources.get(api_version="v1", kind="Pod")
    before = second.status()
    second.start(nodes[1:])
    assert controller.get(name="controller", namespace="metallb-system").spec.nodeName == "spare"
    after = second.status()
    assert {name for name in NAMES if after[name] != before[name]} == {"metallb"}


@pytest.mark.parametrize("victim", ["etcd", "kwok"])
def test_a_killed_process_is_healed_with_all_objects(
    second: Cluster, victim: str, eventually: Eventually, connect: Connect, home: Node
) -> None:
    second.start([home])
    create(connect(second), "v1", "ConfigMap", f"before-{victim}", data={"still": "here"})
    pid = second.status()[victim]
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not second.running())

    second.start([home])

    assert second.running()
    kube = connect(second)
    assert read(kube, "v1", "ConfigMap", f"before-{victim}").data.still == "here"


def test_stopping_ends_the_clusters_processes_and_no_other(
    second: Cluster, cluster: Cluster, bystander: Popen[bytes], home: Node
) -> None:
    second.start([home])
    pids = [pid for pid in second.status().values() if pid]

    second.stop()

    assert len(pids) == len(NAMES)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert bystander.poll() is None
    assert cluster.running()


def test_a_folder_that_cannot_be_made_is_named_in_one_line(
    tmp_path: Path, tools: Tools, home: Node
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/homelab")):
        with pytest.raises(SandboxError) as failure:
            Cluster(folder, tools).start([home])
        assert str(failure.value).startswith(f"{folder}: ")
        assert "\n" not in str(failure.value)


def test_a_full_disk_is_said_before_anything_starts(
    second: Cluster, home: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(free=1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    with pytest.raises(SandboxError, match=r"1 MiB free; it must be 512 MiB or more"):
        second.start([home])
