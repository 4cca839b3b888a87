"""Backups by the pods themselves, and what they are good for: chats deleted, and a box lost."""

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kubernetes import config
from kubernetes.client import AppsV1Api, BatchV1Api, CoreV1Api
from page import ask, sign_in
from real_lab import Server
from waiting import eventually

from config.versions import OPEN_WEBUI_IMAGE
from ops import restore
from sandbox.build import Tools
from sandbox.real_cluster import Cluster

pytestmark = pytest.mark.faults

MOUNT = "/mnt/backup"
PAGE = ("open-webui", restore.NAMESPACE)
BACKUP = {"volume": {"path": f"{MOUNT}/homelab", "size": "10Gi"}}


def attach(cluster: Cluster) -> Path:
    """Give the node a second disk as docs/backups.md says, now and after each start."""
    disk = cluster.disks[MOUNT] = cluster.folder / "backup"
    disk.mkdir()
    cluster.node.run("mkdir", MOUNT)
    cluster.node.run("mount", "--bind", str(disk), MOUNT)
    cluster.node.run("install", "-d", "-o", "1000", "-g", "1000", "-m", "0700", f"{MOUNT}/homelab")
    return disk


def page_of(cluster: Cluster) -> restore.ChatPage:
    """What `make restore` works with."""
    api: Any = config.new_client_from_config(  # type: ignore[no-untyped-call]
        str(cluster.kubeconfig), cluster.context
    )
    return restore.ChatPage(AppsV1Api(api), BatchV1Api(api), CoreV1Api(api), timeout=600)


@pytest.fixture(scope="module")
def backed_up(server: Server) -> Iterator[Server]:
    """The stack with backups, one of which the CronJob has made after a chat was kept."""
    attach(server.cluster)
    server.config["webui"]["backup"] = BACKUP
    server.up()
    yield server
    del server.config["webui"]["backup"]
    server.up()


@pytest.fixture(scope="module")
def chat(backed_up: Server) -> str:
    """A chat that is in a backup which the CronJob has made by itself."""
    chat = backed_up.keep_chat()
    batch = page_of(backed_up.cluster).batch
    name, namespace = "open-webui-backup", restore.NAMESPACE
    usual = batch.read_namespaced_cron_job(name, namespace).spec.schedule
    batch.patch_namespaced_cron_job(name, namespace, {"spec": {"schedule": "* * * * *"}})

    def jobs() -> list[Any]:
        items = batch.list_namespaced_job(namespace).items
        return [job.status for job in items if (job.metadata.owner_references or [])]

    assert eventually(lambda: any(job.succeeded for job in jobs()))
    batch.patch_namespaced_cron_job(name, namespace, {"spec": {"schedule": usual}})
    assert eventually(lambda: not any(job.active for job in jobs()))
    assert not any(job.failed for job in jobs())
    return chat


def test_a_deleted_chat_is_back_after_a_restore(backed_up: Server, chat: str) -> None:
    ask("DELETE", f"{backed_up.page}/api/v1/chats/{chat}", token=backed_up.token())
    assert backed_up.title(chat) is None

    line = restore.restore(page_of(backed_up.cluster), "latest", None)

    assert eventually(lambda: backed_up.title(chat)) == "kept", line
    assert backed_up.engine.up(lambda _: None).keys() == {"same"}


def test_an_up_during_a_restore_starts_the_page_after_it(backed_up: Server, chat: str) -> None:
    page = page_of(backed_up.cluster)

    def nodes() -> list[str | None]:
        """The node of each of the page's pods that is not about to end."""
        label = f"app.kubernetes.io/name={restore.PAGE}"
        pods = page.core.list_namespaced_pod(restore.NAMESPACE, label_selector=label).items
        return [pod.spec.node_name for pod in pods if not pod.metadata.deletion_timestamp]

    def restore_snapshot() -> None:
        try:
            # `up` has reset the replicas, and waits for the pod.
            assert eventually(nodes)
            assert page.run(job, "restoring")[:2] == ("restore", 0)
            assert nodes() == [None]
        finally:
            page.start()
            page.wait()

    ask("DELETE", f"{backed_up.page}/api/v1/chats/{chat}", token=backed_up.token())
    assert backed_up.title(chat) is None
    job = page.job("latest", None)
    page.stop()
    with ThreadPoolExecutor(1) as pool:
        restored = pool.submit(restore_snapshot)
        backed_up.engine.up(lambda _: None)
        restored.result()
    assert eventually(lambda: backed_up.title(chat)) == "kept"
    assert backed_up.engine.up(lambda _: None).keys() == {"same"}


def listed(server: Server) -> str:
    """What `make backups` prints."""
    page = page_of(server.cluster)
    *_, lines = page.run(page.list_job(), "listing")
    return lines


def run_job(server: Server, name: str) -> tuple[str, str]:
    """Run a backup by hand; give the last condition of its Job, and its pods' logs."""
    kubectl = [*server.cluster.kubectl, "-n", restore.NAMESPACE]
    create = ["create", "job", "--from=cronjob/open-webui-backup", name]
    subprocess.run([*kubectl, *create], check=True, capture_output=True)
    batch = page_of(server.cluster).batch

    def ended() -> str:
        conditions = batch.read_namespaced_job(name, restore.NAMESPACE).status.conditions or []
        ends = [each.type for each in conditions if each.type in ("Complete", "Failed")]
        return ends[0] if ends else ""

    how = eventually(ended, 900)
    logs = ["logs", "-l", f"job-name={name}", "--all-containers", "--tail=-1"]
    read = subprocess.run([*kubectl, *logs], check=False, capture_output=True, text=True)
    return how, read.stdout


def test_damaged_packs_are_repaired_and_told_once(backed_up: Server, chat: str) -> None:
    """restic#5216: what is damaged must not spoil every later backup."""
    data = backed_up.cluster.disks[MOUNT] / "homelab" / "repository" / "data"
    for pack in [path for path in data.rglob("*") if path.is_file()]:
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)

    # The owner is called once, although this backup is good.
    how, logs = run_job(backed_up, "after-damage")
    assert how == "Failed", logs
    assert "stored; but parts of older backups were damaged and are lost" in logs
    how, logs = run_job(backed_up, "after-repair")
    assert how == "Complete", logs

    ask("DELETE", f"{backed_up.page}/api/v1/chats/{chat}", token=backed_up.token())
    restore.restore(page_of(backed_up.cluster), "latest", None)
    assert eventually(lambda: backed_up.title(chat)) == "kept"


HOLD = f"""
until ls {MOUNT}/homelab/repository/locks/* && pkill -STOP -f '[r]estic .*backup --json'; do
  sleep 0.01
done
"""
"""Stops restic while it stores; from then on it has a lock, for 0.2 seconds at least."""


def test_a_backup_after_power_cuts_in_the_middle_of_one_is_good(
    backed_up: Server, chat: str
) -> None:
    kubectl = [*backed_up.cluster.kubectl, "-n", restore.NAMESPACE]
    # As docs/runbook.md names it: a lock of another pod than a backup's is not removed.
    cuts = ["open-webui-backup-cut-0", "open-webui-backup-cut-1"]
    for name in cuts:
        create = ["create", "job", "--from=cronjob/open-webui-backup"]
        subprocess.run([*kubectl, *create, name], check=True, capture_output=True)
        backed_up.cluster.node.run("timeout", "300", "sh", "-c", HOLD)
        backed_up.cut()
        backed_up.start()

    assert backed_up.title(chat) == "kept"
    how, logs = run_job(backed_up, "after-cuts")
    assert how == "Complete", logs
    # They are tried again, and a restore refuses to run beside one.
    complete = ["wait", "--for=condition=Complete", "--timeout=300s"]
    subprocess.run([*kubectl, *complete, *(f"job/{name}" for name in cuts)], check=True)
    ask("DELETE", f"{backed_up.page}/api/v1/chats/{chat}", token=backed_up.token())
    restore.restore(page_of(backed_up.cluster), "latest", None)
    assert eventually(lambda: backed_up.title(chat)) == "kept"


def test_another_image_is_rolled_out_after_a_snapshot_and_taken_back(
    backed_up: Server, chat: str
) -> None:
    run, webui = backed_up.cluster.node.run, backed_up.config["webui"]
    new = f"{OPEN_WEBUI_IMAGE.partition(':')[0]}:v0.12.5"
    run("ctr", "-n", "k8s.io", "images", "tag", "--force", OPEN_WEBUI_IMAGE, new)
    before, lines = listed(backed_up).count("upgrade"), list[str]()

    webui["image"] = new
    backed_up.engine.up(lines.append)
    backed_up.cluster.wait_for_page()

    # The Job has ended before the page is stopped.
    snapshot = next(n for n, line in enumerate(lines) if "backup-before created" in line)
    assert snapshot < next(n for n, line in enumerate(lines) if "webui-deployment upd" in line)
    assert listed(backed_up).count("upgrade") == before + 1
    deployment = page_of(backed_up.cluster).apps.read_namespaced_deployment(*PAGE)
    assert deployment.spec.template.spec.containers[0].image == new
    assert deployment.status.ready_replicas == 1
    assert backed_up.title(chat) == "kept"

    del webui["image"]
    backed_up.up()
    assert eventually(lambda: backed_up.title(chat)) == "kept"


def test_a_new_box_has_the_chats_from_the_backup_disk_alone(
    backed_up: Server, chat: str, real_tools: Tools, real_programs: dict[str, Path], tmp_path: Path
) -> None:
    kept = tmp_path / "old"
    kept.write_text(backed_up.engine.outputs()["backup_password"][0])
    # A disk that is plugged into another box.
    disk = backed_up.cluster.disks[MOUNT]
    backed_up.cluster.stop()
    cluster = Cluster(tmp_path / "box", real_programs, real_tools.addons())
    try:
        cluster.start()
        shutil.rmtree(attach(cluster) / "homelab")
        cluster.node.run("cp", "-a", str(disk / "homelab"), MOUNT)
        new = Server(cluster, real_tools)
        new.config["webui"]["backup"] = BACKUP
        new.begin()
        with pytest.raises(restore.RestoreError, match="wrong password"):
            restore.restore(page_of(cluster), "latest", None)
        password = tmp_path / "new"
        password.write_text(new.engine.outputs()["backup_password"][0])
        run = cluster.node.run
        for file in (kept, password, real_programs["restic"]):
            run("install", "-o", "1000", "-m", "0500", str(file), f"/run/{file.name}")
        owner = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
        restic = ["/run/restic", "-r", f"{MOUNT}/homelab/repository", "--no-cache"]
        opened = ["env", "RESTIC_PASSWORD_FILE=/run/old", *owner, *restic]
        run(*opened, "key", "add", "--new-password-file", "/run/new")
        restore.restore(page_of(cluster), "latest", None)

        # The old password counts again.
        new.password = backed_up.password
        assert eventually(lambda: new.title(chat)) == "kept"
        assert sign_in(new.page, new.email, new.password)
    finally:
        cluster.stop()
        backed_up.start()
