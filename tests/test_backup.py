"""The program that takes, proves and restores snapshots, on databases made for it."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import backup
import pytest
from backup import MANIFEST, BackupError, check, main, readable, restore, snapshot, verify

KNOWN = "aaaa00000001"
WRITER = """
import os, sqlite3, sys
base = sqlite3.connect(sys.argv[1])
base.execute("PRAGMA journal_mode=WAL")
base.execute("CREATE TABLE chat (id, text)")
base.executemany("INSERT INTO chat VALUES (?, ?)", [(n, "x" * 100) for n in range(500)])
base.commit()
if sys.argv[2] == "kill":
    os._exit(1)
base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
base.close()
"""


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An image that knows one schema, and a secret key."""
    versions = tmp_path / "image/open_webui/migrations/versions"
    versions.mkdir(parents=True)
    (versions.parent.parent / "__init__.py").touch()
    (versions / "first.py").write_text(f"revision: str = '{KNOWN}'\ndown_revision = None\n")
    monkeypatch.chdir(tmp_path / "image")
    monkeypatch.setenv("WEBUI_SECRET_KEY", "of the house")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("open_webui", None)


def data(folder: Path, revision: str = KNOWN) -> Path:
    """Open WebUI's folder: both databases, an upload, an index, and what is not kept."""
    (folder / "uploads").mkdir(parents=True)
    (folder / "vector_db/one").mkdir(parents=True)
    (folder / "cache").mkdir()
    (folder / "cache/big").write_text("made anew")
    (folder / "uploads/file").write_text("words")
    (folder / "vector_db/one/index.bin").write_bytes(b"\0\1")
    with closing(sqlite3.connect(folder / "webui.db")) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE alembic_version (version_num)")
        base.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        base.execute('CREATE TABLE "chat" (id)')
        base.executemany("INSERT INTO chat VALUES (?)", [(n,) for n in range(20)])
        base.commit()
    with closing(sqlite3.connect(folder / "vector_db/chroma.sqlite3")) as base:
        base.execute("CREATE TABLE embeddings (id)")
        base.commit()
    return folder


def taken(tmp_path: Path, revision: str = KNOWN) -> Path:
    """A snapshot."""
    target = tmp_path / f"snapshot-{revision}"
    snapshot(data(tmp_path / f"data-{revision}", revision), target, tmp_path / "image-name")
    return target


@pytest.mark.parametrize("how", ["kill", "close"])
def test_all_rows_are_read_whether_it_was_killed_or_stopped(tmp_path: Path, how: str) -> None:
    base = tmp_path / "webui.db"
    subprocess.run([sys.executable, "-c", WRITER, base, how], check=False)
    assert Path(f"{base}-wal").exists() == (how == "kill")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("webui.db*")}

    with closing(readable(base)) as opened:
        assert opened.execute("SELECT count(*) FROM chat").fetchone() == (500,)

    assert {path.name: path.read_bytes() for path in tmp_path.glob("webui.db*")} == before


def test_a_snapshot_holds_what_is_kept_and_says_so(tmp_path: Path) -> None:
    target = taken(tmp_path)
    about = json.loads((target / MANIFEST).read_text())

    assert about["rows"]["webui.db"]["chat"] == 20
    assert about["revision"] == KNOWN
    assert about["image"] == "unknown"
    assert set(about["files"]) == {
        "webui.db",
        "vector_db/chroma.sqlite3",
        "vector_db/one/index.bin",
        "uploads/file",
    }
    assert (target / "webui-secret-key").read_text() == "of the house"


def test_a_snapshot_without_the_secret_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBUI_SECRET_KEY")

    with pytest.raises(BackupError, match="WEBUI_SECRET_KEY: missing"):
        taken(tmp_path)


def test_before_a_first_start_there_is_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code = main("snapshot", str(tmp_path / "empty"), str(tmp_path / "to"), str(tmp_path / "name"))

    assert (code, (tmp_path / "to").exists()) == (0, False)
    assert "nothing to back up" in capsys.readouterr().out


def rotten(folder: Path) -> None:
    (folder / "uploads/file").write_text("w0rds")


def lost(folder: Path) -> None:
    (folder / "uploads/file").unlink()


def torn(folder: Path) -> None:
    raw = bytearray((folder / "webui.db").read_bytes())
    raw[4096:4200] = b"\xff" * 104
    (folder / "webui.db").write_bytes(raw)


def emptied(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "webui.db")) as base:
        base.execute("DELETE FROM chat WHERE id > 10")
        base.commit()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (rotten, "uploads/file is not what was backed up"),
        (lost, "1 files are missing, uploads/file first"),
        (torn, "webui.db is damaged"),
        (emptied, "webui.db: table chat has another number of rows"),
    ],
)
def test_whatever_came_back_otherwise_is_found(
    tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    target = taken(tmp_path)
    about = json.loads((target / MANIFEST).read_text())
    check(target, about)
    harm(target)

    with pytest.raises(BackupError, match=told):
        check(target, about)


def test_a_bad_backup_is_measured_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    target = taken(tmp_path)
    shutil.copy(target / MANIFEST, tmp_path / MANIFEST)
    verify(tmp_path / MANIFEST, target)
    rotten(target)

    with pytest.raises(BackupError):
        verify(tmp_path / MANIFEST, target)
    assert [values["homelab.backup.verified"][1] for values in pushed] == [1, 0]
    assert "homelab.backup.last_success.timestamp" not in pushed[1]


def fetched(tmp_path: Path, revision: str = KNOWN) -> tuple[Path, Path]:
    """A house whose data are others by now, with the snapshot beside them and its key."""
    house = data(tmp_path / "house")
    (house / "uploads/file").write_text("newer")
    shutil.copytree(taken(tmp_path, revision), house / ".restore")
    key = tmp_path / "key"
    (house / ".restore/webui-secret-key").rename(key)
    return house, key


def test_a_restore_puts_all_in_place_and_the_old_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house, key = fetched(tmp_path)
    restore(house / ".restore", house, key)

    assert (house / "uploads/file").read_text() == "words"
    (aside,) = house.glob(".before-restore-*")
    assert (aside / "uploads/file").read_text() == "newer"
    assert (aside / "cache/big").exists()
    # A log of the old one beside the new database would be played into it.
    assert not list(house.glob("webui.db-*"))
    assert sorted(path.name for path in house.iterdir()) == sorted(
        [aside.name, "uploads", "vector_db", "webui.db"]
    )
    assert "another secret key" not in capsys.readouterr().out


@pytest.mark.parametrize("why", ["newer", "rotten"])
def test_what_does_not_fit_is_refused_and_nothing_is_touched(
    tmp_path: Path, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house, key = fetched(tmp_path, KNOWN if why == "rotten" else "bbbb00000002")
    if why == "rotten":
        rotten(house / ".restore")

    assert main("restore", str(house / ".restore"), str(house), str(key)) == 1
    told = "not what was backed up" if why == "rotten" else "which this image does not know"
    assert told in capsys.readouterr().out
    assert (house / "uploads/file").read_text() == "newer"
    assert not list(house.glob(".before-restore-*"))
    assert not (house / ".restore").exists(), "it takes the room of the data"


def break_renames(patch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> list[int]:
    """Let those renames fail whose number, from 1, `fails` says; gives the numbers as they come."""
    real = Path.rename
    calls: list[int] = []

    def rename(self: Path, target: Path) -> Path:
        calls.append(len(calls) + 1)
        if fails(calls[-1]):
            raise OSError(5, "Input/output error")
        return real(self, target)

    patch.setattr(Path, "rename", rename)
    return calls


def test_a_disk_that_fails_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, key = fetched(tmp_path)
    calls = break_renames(monkeypatch, lambda number: number == 6)

    assert main("restore", str(house / ".restore"), str(house), str(key)) == 1
    assert len(calls) > 6
    assert (house / "uploads/file").read_text() == "newer"
    assert {path.name for path in house.iterdir()} >= {"webui.db", "uploads", "vector_db", "cache"}


def test_what_cannot_be_moved_back_is_not_told_as_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, key = fetched(tmp_path)
    break_renames(monkeypatch, lambda number: number >= 3)

    assert main("restore", str(house / ".restore"), str(house), str(key)) == 2
