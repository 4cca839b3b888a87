"""Backup and restore with the real Open WebUI and restic, by the pods' own commands."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from backup_box import Box, before, cron, kill, program, steps
from page import ask, upload
from restic_lab import create
from waiting import eventually

from sandbox.processes import free_ports

ADMIN = ("admin@homelab.home.arpa", "first of all 1")
GUEST = ("guest@homelab.home.arpa", "second of all 2")
FILE = b"what a person has uploaded\n" * 4000


@pytest.fixture(scope="module")
def box(
    programs: dict[str, Path], open_webui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A node after a first install, with Open WebUI and a Prometheus running."""
    box = Box(tmp_path_factory.mktemp("box"), programs["restic"], open_webui)
    port = free_ports(1)[0]
    (box.folder / "prometheus.yml").write_text("{}")
    flags = [
        f"--config.file={box.folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={box.folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-otlp-receiver",
    ]
    quiet = subprocess.DEVNULL
    prometheus = subprocess.Popen([programs["prometheus"], *flags], stdout=quiet, stderr=quiet)
    box.otlp = f"http://127.0.0.1:{port}/api/v1/otlp/v1/metrics"
    try:
        # At a first install, the Job before Open WebUI has nothing to back up.
        code, output = box.run(before(box.deployment))
        assert code == 0, output
        assert "nothing to back up" in output
        assert not (box.mounts["backup"] / "repository").exists()
        create(box.mounts["backup"] / "repository")
        box.start_page()
        box.wait_for_page()
        yield box
    finally:
        box.stop_page()
        prometheus.terminate()
        prometheus.wait(30)


def value(box: Box, query: str) -> list[str]:
    """Return the values of a Prometheus query."""
    base = box.otlp.partition("/api/")[0]
    _, text = ask("GET", f"{base}/api/v1/query?query={quote(query)}")
    return [series["value"][1] for series in json.loads(text)["data"]["result"]]


def test_after_loss_of_data_and_secrets_the_last_good_backup_is_restored(box: Box) -> None:
    admin = box.sign_in(*ADMIN)
    guest_account = {"name": "Guest", "email": GUEST[0], "password": GUEST[1], "role": "user"}
    status, text = ask("POST", f"{box.page}/api/v1/auths/add", guest_account, admin)
    assert status == 200, text
    guest = box.sign_in(*GUEST)
    chats = {
        (name, box.create_chat(token, f"{name} {number}")): f"{name} {number}"
        for name, token in (("admin", admin), ("guest", guest))
        for number in range(5)
    }
    file = upload(box.page, guest, "notes.txt", FILE, "?process=false")

    # 1. A backup during writes.
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            written.append(box.create_chat(guest, f"while it ran {len(written)}"))

    writer = threading.Thread(target=write)
    writer.start()
    assert eventually(lambda: written)
    code, output = box.run(cron(box.deployment, "open-webui-backup-schedule"))
    during = len(written)
    stop.set()
    writer.join()
    assert code == 0, output
    assert during > 5
    assert "verified: 2 users" in output
    assert box.secrets["WEBUI_SECRET_KEY"] not in output
    (age,) = value(box, "time() - homelab_backup_last_success_timestamp_seconds")
    assert 0 < float(age) < 60

    # 2. The next backup is killed while restic writes.
    later = box.create_chat(admin, "after the last good one")
    large = box.mounts["data"] / "uploads" / "large"
    large.write_bytes(os.urandom(150_000_000))
    box.empty_scratch()
    first, store, *_ = steps(cron(box.deployment, "open-webui-backup-schedule"))
    assert box.step(first).wait(60) == 0
    repository = box.mounts["backup"] / "repository" / "data"
    packs = {*repository.rglob("*")}
    process = box.step(store)
    assert eventually(lambda: {*repository.rglob("*")} - packs)
    kill(process)
    assert not (box.mounts["scratch"] / "restored").exists()

    # 3. The data is lost, and the stack has new secrets.
    box.stop_page()
    shutil.rmtree(box.mounts["data"])
    box.mounts["data"].mkdir()
    box.secrets |= {"WEBUI_ADMIN_PASSWORD": "another 1", "WEBUI_SECRET_KEY": "n" * 48}
    code, output = box.run(cron(box.deployment, "open-webui-backup-restore"))
    assert code == 0, output
    assert "restored: 2 users" in output
    assert "the secret key has changed: all users sign in again" in output
    assert not list(box.mounts["data"].rglob("webui-secret-key"))
    box.start_page()
    box.wait_for_page()
    assert ask("GET", f"{box.page}/api/v1/auths/", token=guest)[0] == 401
    tokens = {"admin": box.sign_in(*ADMIN), "guest": box.sign_in(*GUEST)}
    assert {key: box.read_chat(tokens[key[0]], key[1]) for key in chats} == chats
    status, text = ask("GET", f"{box.page}/api/v1/files/{file}/content", token=tokens["guest"])
    assert (status, text.encode()) == (200, FILE)
    status, _ = ask("GET", f"{box.page}/api/v1/chats/{later}", token=tokens["admin"])
    assert status != 200


def test_another_image_is_preceded_by_a_snapshot_with_the_old_image(box: Box) -> None:
    old = box.deployment["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    (container,) = old["spec"]["template"]["spec"]["containers"]
    new = program("ghcr.io/open-webui/open-webui:v99.0.0")

    code, output = box.run(before(new))

    assert code == 0, output
    list_ = {**steps(cron(box.deployment, "open-webui-backup-restore"))[0]}
    list_["command"] = [*list_["command"][:2], "list"]
    snapshots = box.step(list_).communicate(timeout=60)[0]
    assert "upgrade" in snapshots
    assert f"image={container['image']}" in snapshots
    assert (box.mounts["backup"] / "image").read_text().endswith(":v99.0.0")


def test_a_damaged_index_is_left_out_and_reported(box: Box) -> None:
    index = box.mounts["data"] / "vector_db/chroma.sqlite3"
    index.parent.mkdir(exist_ok=True)
    index.write_text("not a database at all\n" * 500)
    sentence = "left out: vector_db (chroma.sqlite3 cannot be copied: file is not a database)"

    code, output = box.run(before(program("ghcr.io/open-webui/open-webui:v99.0.1")))
    assert (code, output.splitlines()[-1]) == (0, sentence), output
    code, output = box.run(cron(box.deployment, "open-webui-backup-schedule"))
    assert (code, output.splitlines()[-1]) == (0, sentence), output
    assert value(box, "homelab_backup_left_out") == ["1"]

    shutil.rmtree(index.parent)
    code, output = box.run(cron(box.deployment, "open-webui-backup-schedule"))
    assert code == 0, output
    assert "left out" not in output
    assert value(box, "homelab_backup_left_out") == ["0"]


def test_another_password_fails_and_creates_no_new_repository(box: Box) -> None:
    code, output = box.run(
        cron(box.deployment, "open-webui-backup-schedule"), RESTIC_PASSWORD="lost"
    )

    assert code == 1
    assert "wrong password" in output.splitlines()[-1]


def test_a_new_server_reads_old_backups_once_its_password_is_added(
    box: Box, tmp_path: Path
) -> None:
    password = tmp_path / "new"
    password.write_text("of the new server")
    command = [str(box.restic), "key", "add", "--new-password-file", str(password)]
    repository = str(box.mounts["backup"] / "repository")
    variables = {"RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD": box.secrets["RESTIC_PASSWORD"]}
    subprocess.run([*command, "--no-cache"], env={**os.environ, **variables}, check=True)
    box.stop_page()
    box.secrets["RESTIC_PASSWORD"] = "of the new server"

    code, output = box.run(cron(box.deployment, "open-webui-backup-restore"))

    assert code == 0, output
    assert "the replaced data is in .before-restore-" in output
