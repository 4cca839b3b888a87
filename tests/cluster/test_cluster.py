"""The simulated cluster: its security, and that a start repairs it."""

import http.client
import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from doctor_lab import connect
from waiting import eventually

from sandbox.build import Tools
from sandbox.cluster import NAMES, Cluster, Node
from sandbox.processes import SandboxError


@pytest.fixture(scope="module")
def second(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another cluster, whose processes are killed."""
    cluster = Cluster(tmp_path_factory.mktemp("second"), tools)
    yield cluster
    cluster.remove()


def test_kubeconfig_and_key_are_private_and_the_certificate_is_verified(cluster: Cluster) -> None:
    secrets = [cluster.kubeconfig, cluster.folder / "certificates" / "admin.key"]
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
    moved = cluster.kubeconfig.with_suffix(".away")
    cluster.kubeconfig.rename(moved)
    # So the next start ends its processes and writes the file again.
    assert not cluster.running()
    moved.rename(cluster.kubeconfig)
    assert cluster.running()


def test_starting_a_running_cluster_changes_nothing(cluster: Cluster, home: Node) -> None:
    before = cluster.status()
    cluster.start([home])
    assert cluster.status() == before


def test_a_start_that_fails_names_process_and_log(tmp_path: Path, tools: Tools, home: Node) -> None:
    broken = tmp_path / "tools" / "bin" / "kube"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho first\necho no such luck\nexit 1\n")
    broken.chmod(0o755)
    cluster = Cluster(tmp_path / "state", Tools(tmp_path / "tools", tools.pulumi))
    leftover = tmp_path / "state" / "data" / "rest"
    leftover.parent.mkdir(parents=True)
    leftover.touch()

    with pytest.raises(SandboxError) as failure:
        cluster.start([home])

    log = tmp_path / "state" / "logs" / "etcd.log"
    assert str(failure.value).startswith(f"etcd ended; {log} ends with: no such luck")
    assert not cluster.running()
    assert not leftover.exists()


def test_two_clusters_run_at_once_and_nodes_are_added_and_removed(
    cluster: Cluster, second: Cluster, home: Node
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

    # MetalLB's controller restarts, because its pod was on the removed node.
    controller = kube.resources.get(api_version="v1", kind="Pod")
    before = second.status()
    second.start(nodes[1:])
    assert controller.get(name="controller", namespace="metallb-system").spec.nodeName == "spare"
    after = second.status()
    assert {name for name in NAMES if after[name] != before[name]} == {"metallb"}


def test_a_start_after_a_killed_process_keeps_all_objects(second: Cluster, home: Node) -> None:
    second.start([home])
    name, kind = "before", {"api_version": "v1", "kind": "ConfigMap"}
    body = {"metadata": {"name": name}, "data": {"still": "here"}}
    connect(second).resources.get(**kind).create(body=body, namespace="default")
    pid = second.status()["etcd"]
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not second.running())

    second.start([home])

    assert second.running()
    config_map = connect(second).resources.get(**kind).get(name=name, namespace="default")
    assert config_map.data.still == "here"


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


def test_a_folder_that_cannot_be_created_is_one_line(
    tmp_path: Path, tools: Tools, home: Node
) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/homelab")):
        with pytest.raises(SandboxError) as failure:
            Cluster(folder, tools).start([home])
        assert str(failure.value).startswith(f"{folder}: ")
        assert "\n" not in str(failure.value)


def test_a_full_disk_is_reported_before_the_start(
    second: Cluster, home: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage("/")._replace(free=1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)

    with pytest.raises(SandboxError, match=r"1 MiB free; it must be 512 MiB or more"):
        second.start([home])
