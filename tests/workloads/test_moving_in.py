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
from typing import NamedTuple

import pytest
from backup_box import Box
from harness import ROOT
from page import ask, upload
from waiting import eventually

from ops.machines import PROGRAMS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which only root can")
OWNER = ("old@example.org", "of the old one 1")
AS_USER = """
mount --bind "$1" /mnt
shift
exec setpriv --reuid=1000 --regid=1000 --clear-groups --bounding-set=-all "$@"
"""
"""Runs a command as user 1000, who may not enter the folder of root with its program."""


class Old(NamedTuple):
    """Data that an Open WebUI has written as root, and the IDs of a chat and a file in it."""

    data: Path
    chat: str
    file: str


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may read."""
    with TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def old(programs: dict[str, Path], open_webui: Path, folder: Path) -> Old:
    """The data of an Open WebUI with default settings."""
    box = Box(folder / "old", programs["restic"], open_webui)
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
    chat = box.create_chat(token, "before the move")
    file = upload(box.page, token, "a.txt", b"x", "?process=no")
    box.stop_page()
    assert "true" in config(old)["openai.enable"]
    # Moved, because on another machine its files are not where they were.
    return Old(old.rename(folder / "old/data-moved"), chat, file)


@pytest.fixture
def box(
    programs: dict[str, Path], open_webui: Path, folder: Path, old: Old, tmp_path: Path
) -> Iterator[Box]:
    """A node with the old data."""
    python = Path("/mnt") / open_webui.relative_to(open_webui.parents[3])
    box = Box(folder / tmp_path.name, programs["restic"], python)
    shutil.copytree(old.data, box.mounts["data"], dirs_exist_ok=True)
    yield box
    box.stop_page()


@pytest.fixture
def as_user(open_webui: Path) -> list[str]:
    """The command prefix that runs a command as the pod's user, with the image at /mnt."""
    return ["unshare", "--mount", "sh", "-euc", AS_USER, "sh", str(open_webui.parents[3])]


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


def test_accounts_chats_and_files_are_kept_and_settings_are_the_stacks(
    box: Box, as_user: list[str], old: Old
) -> None:
    assert re.search(r"1000:1000 0750, with what is in it: [1-9]\d* had another", give_away(box))
    box.start_page(as_user)
    box.wait_for_page()

    token = box.sign_in(*OWNER)
    assert box.read_chat(token, old.chat) == "before the move"
    first = {"email": "admin@homelab.home.arpa", "password": box.secrets["WEBUI_ADMIN_PASSWORD"]}
    assert ask("POST", f"{box.page}/api/v1/auths/signin", first)[0] == 400
    stranger = {"name": "No", "email": "no@example.org", "password": "of nobody 1"}
    assert ask("POST", f"{box.page}/api/v1/auths/signup", stranger)[0] == 403
    _, text = ask("GET", f"{box.page}/openai/config", token=token)
    assert '"ENABLE_OPENAI_API":false' in text
    # The database has its path in the old folder.
    content = f"{box.page}/api/v1/files/{old.file}/content"
    assert ask("GET", content, token=token)[0] == 404
    process = subprocess.run(
        [*as_user, str(box.python), "-"],
        input=(ROOT / "ops/programs/uploads.py").read_text(),
        env={"PATH": os.defpath, "DATA_DIR": str(box.mounts["data"])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout == "uploads: corrected 1 of 1 paths\n", process.stderr
    assert ask("GET", content, token=token) == (200, "x")
    assert box.create_chat(token, "after it")
    assert {path.stat().st_uid for path in box.mounts["data"].rglob("*")} == {1000}


def test_a_database_of_a_newer_version_is_refused_and_not_changed(
    box: Box, as_user: list[str]
) -> None:
    database = box.mounts["data"] / "webui.db"
    with closing(sqlite3.connect(database)) as base, base:
        base.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    give_away(box)
    before = config(box.mounts["data"])

    box.start_page(as_user)

    assert eventually(lambda: "Can't locate revision" in (box.folder / "page.log").read_text())
    assert config(box.mounts["data"]) == before
