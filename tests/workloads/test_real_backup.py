"""The drill: the real Open WebUI, the real restic, and the pods' own commands."""

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
from waiting import eventually

from sandbox.processes import free_ports

ADMIN = ("admin@homelab.home.arpa", "first of all 1")
GUEST = ("guest@homelab.home.arpa", "second of all 2")
FILE = b"what a person has uploaded\n" * 4000


@pytest.fixture(scope="module")
def box(
    programs: dict[str, Path], open_webui: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A box with Open WebUI running, a first install behind it, and a Prometheus."""
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
        # A first install: the Job comes before there is anything, and does not stand in the way.
        code, said = box.run(before(box.lab))
        assert code == 0, said
        assert "nothing to back up" in said
        assert not (box.mounts["backup"] / "repository").exists()
        box.start_page()
        box.wait_for_page()
        yield box
    finally:
        box.stop_page()
        prometheus.terminate()
        prometheus.wait(30)


def value(box: Box, query: str) -> list[str]:
    """What the Prometheus that got the pushes answers, value by value."""
    base = box.otlp.partition("/api/")[0]
    _, text = ask("GET", f"{base}/api/v1/query?query={quote(query)}")
    return [one["value"][1] for one in json.loads(text)["data"]["result"]]


def test_the_drill(box: Box) -> None:
    admin = box.sign_in(*ADMIN)
    guest_account = {"name": "Guest", "email": GUEST[0], "password": GUEST[1], "role": "user"}
    status, text = ask("POST", f"{box.page}/api/v1/auths/add", guest_account, admin)
    assert status == 200, text
    guest = box.sign_in(*GUEST)
    chats = {
        (who, box.say(token, f"{who} {number}")): f"{who} {number}"
        for who, token in (("admin", admin), ("guest", guest))
        for number in range(5)
    }
    file = upload(box.page, guest, "notes.txt", FILE, "?process=false")

    # 1. A backup, while somebody goes on writing.
    stop = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not stop.is_set():
            written.append(box.say(guest, f"while it ran {len(written)}"))

    writer = threading.Thread(target=write)
    writer.start()
    assert eventually(lambda: written)
    code, said = box.run(cron(box.lab, "open-webui-backup-schedule"))
    during = len(written)
    stop.set()
    writer.join()
    assert code == 0, said
    assert during > 5
    assert "verified: 2 users" in said
    assert box.secrets["WEBUI_SECRET_KEY"] not in said
    assert value(box, "homelab_backup_verified") == ["1"]
    (age,) = value(box, "time() - homelab_backup_last_success_timestamp_seconds")
    assert 0 < float(age) < 60
    (size,) = value(box, "homelab_backup_size_bytes")
    assert float(size) > len(FILE)

    # 2. The next one is killed while restic writes. The last good one is still the newest.
    later = box.say(admin, "after the last good one")
    large = box.mounts["data"] / "uploads" / "large"
    large.write_bytes(os.urandom(150_000_000))
    box.empty_scratch()
    first, store, *_ = steps(cron(box.lab, "open-webui-backup-schedule"))
    assert box.step(first).wait(60) == 0
    repository = box.mounts["backup"] / "repository" / "data"
    kept = {*repository.rglob("*")}
    process = box.step(store)
    assert eventually(lambda: {*repository.rglob("*")} - kept)
    kill(process)
    assert not (box.mounts["scratch"] / "restored").exists()

    # 3. Everything is lost, and the stack destroyed and brought up again, with secrets made anew.
    box.stop_page()
    shutil.rmtree(box.mounts["data"])
    box.mounts["data"].mkdir()
    box.secrets |= {"WEBUI_ADMIN_PASSWORD": "another 1", "WEBUI_SECRET_KEY": "n" * 48}
    code, said = box.run(cron(box.lab, "open-webui-backup-restore"))
    assert code == 0, said
    assert "restored: 2 users" in said
    assert "the secret key has changed: all users sign in again" in said
    assert not list(box.mounts["data"].rglob("webui-secret-key"))
    box.start_page()
    box.wait_for_page()
    assert ask("GET", f"{box.page}/api/v1/auths/", token=guest)[0] == 401
    tokens = {"admin": box.sign_in(*ADMIN), "guest": box.sign_in(*GUEST)}
    assert {key: box.said(tokens[key[0]], key[1]) for key in chats} == chats
    status, text = ask("GET", f"{box.page}/api/v1/files/{file}/content", token=tokens["guest"])
    assert (status, text.encode()) == (200, FILE)
    status, _ = ask("GET", f"{box.page}/api/v1/chats/{later}", token=tokens["admin"])
    assert status != 200


def test_another_image_is_preceded_by_a_snapshot_with_the_old_ones_name(box: Box) -> None:
    old = box.lab["kubernetes:apps/v1:Deployment::open-webui-deployment"].inputs
    (container,) = old["spec"]["template"]["spec"]["containers"]
    new = program("ghcr.io/open-webui/open-webui:v99.0.0")

    code, said = box.run(before(new))

    assert code == 0, said
    list_ = {**steps(cron(box.lab, "open-webui-backup-restore"))[0]}
    list_["command"] = [*list_["command"][:2], "list"]
    shown = box.step(list_).communicate(timeout=60)[0]
    assert "upgrade" in shown
    assert f"image={container['image']}" in shown
    assert (box.mounts["backup"] / "image").read_text().endswith(":v99.0.0")


def test_a_damaged_index_stops_neither_backup_nor_image_nor_restore(box: Box) -> None:
    chat = box.say(box.sign_in(*ADMIN), "beside a damaged index")
    index = box.mounts["data"] / "vector_db/chroma.sqlite3"
    index.parent.mkdir(exist_ok=True)
    index.write_text("not a database at all\n" * 500)
    sentence = "left out: vector_db (chroma.sqlite3 cannot be copied: file is not a database)"

    code, said = box.run(before(program("ghcr.io/open-webui/open-webui:v99.0.1")))
    assert (code, said.splitlines()[-1]) == (0, sentence), said
    code, said = box.run(cron(box.lab, "open-webui-backup-schedule"))
    assert (code, said.splitlines()[-1]) == (0, sentence), said
    assert value(box, "homelab_backup_left_out") == ["1"]
    assert value(box, "homelab_backup_verified") == ["1"]

    box.stop_page()
    code, said = box.run(cron(box.lab, "open-webui-backup-restore"))
    assert code == 0, said
    assert sentence in said
    # The old one is aside with the rest.
    assert not index.parent.exists()
    assert list(box.mounts["data"].glob(".before-restore-*/vector_db/chroma.sqlite3"))
    box.start_page()
    box.wait_for_page()
    assert box.said(box.sign_in(*ADMIN), chat) == "beside a damaged index"
    code, said = box.run(cron(box.lab, "open-webui-backup-schedule"))
    assert code == 0, said
    assert "left out" not in said
    assert value(box, "homelab_backup_left_out") == ["0"]


def test_another_password_never_makes_a_new_repository(box: Box) -> None:
    code, said = box.run(cron(box.lab, "open-webui-backup-schedule"), RESTIC_PASSWORD="lost")

    assert code == 1
    assert "wrong password" in said.splitlines()[-1]


def test_a_new_house_reads_old_backups_once_its_password_is_added(box: Box, tmp_path: Path) -> None:
    password = tmp_path / "new"
    password.write_text("of the new house")
    command = [str(box.restic), "key", "add", "--new-password-file", str(password)]
    repository = str(box.mounts["backup"] / "repository")
    given = {"RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD": box.secrets["RESTIC_PASSWORD"]}
    subprocess.run([*command, "--no-cache"], env={**os.environ, **given}, check=True)
    box.stop_page()
    box.secrets["RESTIC_PASSWORD"] = "of the new house"

    code, said = box.run(cron(box.lab, "open-webui-backup-restore"))

    assert code == 0, said
    assert "the replaced data is in .before-restore-" in said
