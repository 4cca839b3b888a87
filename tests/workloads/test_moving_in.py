"""Taking over the data of an Open WebUI that ran as root."""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from backup_box import Box
from harness import ROOT
from page import ask, upload
from waiting import eventually

from ops.machines import PROGRAMS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root can")
OWNER = ("old@example.org", "of the old one 1")
AS_USER = """
mount -t tmpfs -o mode=755 tmpfs /mnt
number=0
while [ "$1" != -- ]; do
  number=$((number + 1))
  mkdir -p /mnt/$number/upper /mnt/$number/work
  mount -t overlay -o lowerdir="$1",upperdir=/mnt/$number/upper,workdir=/mnt/$number/work o "$1"
  shift
done
shift
exec setpriv --reuid=1000 --regid=1000 --clear-groups --bounding-set=-all "$@"
"""
"""Runs a command as user 1000, with overlays over root's closed folders that have its programs."""


@pytest.fixture
def box(programs: dict[str, Path], open_webui: Path) -> Iterator[Box]:
    """A node whose folders are readable for every user."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        box = Box(Path(folder), programs["restic"], open_webui)
        yield box
        box.stop_page()


def as_user(python: Path) -> list[str]:
    """Return the command prefix that runs a command as the pod's user."""
    paths = {*python.parents, *python.resolve().parents}
    closed = sorted(str(path) for path in paths if not path.stat().st_mode & 1)
    return ["unshare", "--mount", "sh", "-euc", AS_USER, "sh", *closed, "--"]


def made_as_root(box: Box) -> tuple[str, str]:
    """Write data with a default Open WebUI as root; return the IDs of a chat and a file."""
    old = box.folder / "app/backend/data"
    old.mkdir(parents=True)
    environment = {
        "PATH": os.environ["PATH"],
        "DATA_DIR": str(old),
        "HOME": str(box.folder),
        "WEBUI_SECRET_KEY": "old",
        "USE_SLIM_DOCKER": "true",
        "OFFLINE_MODE": "true",
        "DEFAULT_USER_ROLE": "admin",
        "ENABLE_OPENAI_API": "true",
    }
    box.serve(environment)
    box.wait_for_page()
    account = {"name": "Old", "email": OWNER[0], "password": OWNER[1]}
    status, text = ask("POST", f"{box.page}/api/v1/auths/signup", account)
    assert status == 200, text
    token = box.sign_in(*OWNER)
    ids = (
        box.create_chat(token, "before the move"),
        upload(box.page, token, "a.txt", b"x", "?process=no"),
    )
    box.stop_page()
    assert "true" in config(old)["openai.enable"]
    box.mounts["data"].rmdir()
    shutil.move(old, box.mounts["data"])
    return ids


def config(data: Path) -> dict[str, str]:
    """Return the settings in the database."""
    with closing(sqlite3.connect(data / "webui.db")) as base:
        return dict(base.execute("SELECT key, value FROM config"))


def give_away(box: Box) -> str:
    """Change the owner of the data with the Job's program of `make init`; return its output."""
    data = box.mounts["data"]
    process = subprocess.run(
        ["sh", PROGRAMS / "directories.sh"],
        env={
            "PATH": os.environ["PATH"],
            "ROOT": "",
            "DISK": "/",
            "DIRECTORIES": f"1000:1000 0750 {data}",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    for folder in (box.folder, box.folder / "static"):
        folder.mkdir(exist_ok=True)
        os.chown(folder, 1000, 1000)
    return process.stdout


def test_accounts_chats_and_files_are_kept_and_settings_are_the_stacks(box: Box) -> None:
    chat, file = made_as_root(box)

    assert re.search(r"1000:1000 0750, with what is in it: [1-9]\d* had another", give_away(box))
    box.start_page(as_user(box.python))
    box.wait_for_page()

    token = box.sign_in(*OWNER)
    assert box.read_chat(token, chat) == "before the move"
    first = {"email": "admin@homelab.home.arpa", "password": box.secrets["WEBUI_ADMIN_PASSWORD"]}
    assert ask("POST", f"{box.page}/api/v1/auths/signin", first)[0] == 400
    stranger = {"name": "No", "email": "no@example.org", "password": "of nobody 1"}
    assert ask("POST", f"{box.page}/api/v1/auths/signup", stranger)[0] == 403
    _, text = ask("GET", f"{box.page}/openai/config", token=token)
    assert '"ENABLE_OPENAI_API":false' in text
    # The database has its path in the old folder.
    content = f"{box.page}/api/v1/files/{file}/content"
    assert ask("GET", content, token=token)[0] == 404
    command = [*as_user(box.python), str(box.python), str(ROOT / "ops/programs/uploads.py")]
    process = subprocess.run(
        command, env={"DATA_DIR": str(box.mounts["data"])}, capture_output=True, text=True
    )
    assert process.stdout == "uploads: corrected 1 of 1 paths\n", process.stderr
    assert ask("GET", content, token=token) == (200, "x")
    assert box.create_chat(token, "after it")
    assert {path.stat().st_uid for path in box.mounts["data"].rglob("*")} == {1000}


def test_a_database_of_a_newer_version_is_refused_and_not_changed(box: Box) -> None:
    made_as_root(box)
    database = box.mounts["data"] / "webui.db"
    with closing(sqlite3.connect(database)) as base, base:
        base.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    give_away(box)
    before = config(box.mounts["data"])

    box.start_page(as_user(box.python))

    assert eventually(lambda: "Can't locate revision" in (box.folder / "page.log").read_text())
    assert config(box.mounts["data"]) == before
