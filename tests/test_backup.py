"""The program that takes, proves and restores snapshots, on databases made for it."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import backup
import pytest
from backup import MANIFEST, BackupError, check, connect, main, restore, snapshot, verify

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
        base.executemany("INSERT INTO embeddings VALUES (?)", [(f"{n}" * 100,) for n in range(99)])
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

    with closing(connect(base)) as opened:
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


def ran(tmp_path: Path, house: Path) -> tuple[int, Path]:
    """Take a snapshot as the Job does; its exit code, and where it is."""
    target = tmp_path / "scratch/snapshot"
    target.parent.mkdir(exist_ok=True)
    return main("snapshot", str(house), str(target), str(tmp_path / "name")), target


def overwritten(file: Path, at: int = 4096, with_: bytes = b"\xff" * 4096) -> None:
    raw = bytearray(file.read_bytes())
    raw[at : at + len(with_)] = with_
    file.write_bytes(raw)


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def broken_disk(file: Path) -> None:
    """Every read of this memory's first byte is an I/O error, for whoever reads."""
    file.unlink()
    file.symlink_to("/proc/self/mem")


HARMS: dict[str, Callable[[Path], object]] = {
    "page": overwritten,
    "leaf": lambda file: overwritten(file, at=8192),
    "zeroed page": lambda file: overwritten(file, with_=bytes(4096)),
    "two bytes": lambda file: overwritten(file, at=8192 + 8, with_=b"\0\1"),
    "header": lambda file: overwritten(file, at=0, with_=b"\xff" * 100),
    "schema": lambda file: overwritten(file, at=100, with_=b"\xff" * 3996),
    "text": lambda file: file.write_text("not a database at all\n" * 500),
    "truncated": lambda file: os.truncate(file, 4096),
    "torn": lambda file: os.truncate(file, 5000),
    "folder": replaced_by_a_folder,
    "broken disk": broken_disk,
}


def settled(database: Path) -> Path:
    """The database with nothing left in its log, so that its pages are what is read."""
    with closing(sqlite3.connect(database)) as base:
        base.execute("PRAGMA journal_mode=DELETE")
    return database


@pytest.mark.parametrize("harm", HARMS.values(), ids=list(HARMS))
def test_a_damaged_index_is_left_out_and_the_chats_are_stored(
    tmp_path: Path,
    harm: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    house = data(tmp_path / "house")
    harm(settled(house / "vector_db/chroma.sqlite3"))

    code, target = ran(tmp_path, house)

    said = capsys.readouterr().out
    assert code == 0, said
    assert len(said.splitlines()) == 1
    assert "left out: vector_db (" in said
    assert not (target / "vector_db").exists()
    about = json.loads((target / MANIFEST).read_text())
    assert set(about["files"]) == {"webui.db", "uploads/file"}
    # repository.sh says it last.
    sentence = (target.parent / "left-out").read_text()
    assert sentence.endswith("\n")
    assert sentence.startswith("left out: vector_db (")
    assert len(sentence.splitlines()) == 1
    (target / MANIFEST).rename(tmp_path / MANIFEST)
    verify(tmp_path / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 1)
    assert pushed[0]["homelab.backup.verified"] == ("", 1)
    assert sentence.strip() in capsys.readouterr().out


@pytest.mark.parametrize("harm", HARMS.values(), ids=list(HARMS))
def test_damaged_chats_are_no_backup(
    tmp_path: Path, harm: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    house = data(tmp_path / "house")
    harm(settled(house / "webui.db"))

    code, target = ran(tmp_path, house)

    (line,) = capsys.readouterr().out.splitlines()
    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert line.startswith("snapshot failed: ")
    assert "[(" not in line
    assert "webui.db" in line


def test_an_emptied_database_of_chats_is_no_backup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = data(tmp_path / "house")
    os.truncate(settled(house / "webui.db"), 0)

    code, target = ran(tmp_path, house)

    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert "snapshot failed: webui.db has no schema" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["empty", "absent", "no folder"])
def test_an_index_that_holds_nothing_yet_is_no_damage(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    house = data(tmp_path / "house")
    index = house / "vector_db/chroma.sqlite3"
    if what == "empty":
        os.truncate(index, 0)
    elif what == "absent":
        index.unlink()
    else:
        shutil.rmtree(index.parent)

    code, target = ran(tmp_path, house)

    about = json.loads((target / MANIFEST).read_text())
    kept = {"empty": {"one/index.bin", "chroma.sqlite3"}, "absent": {"one/index.bin"}}
    assert code == 0
    assert set(about["files"]) == {"webui.db", "uploads/file"} | {
        f"vector_db/{name}" for name in kept.get(what, set())
    }
    assert not (target.parent / "left-out").exists()
    verify(target / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 0)


def test_an_index_with_one_unreadable_part_is_left_out_whole(tmp_path: Path) -> None:
    house = data(tmp_path / "house")
    broken_disk(house / "vector_db/one/index.bin")

    code, target = ran(tmp_path, house)

    assert (code, (target / "vector_db").exists()) == (0, False)
    assert json.loads((target / MANIFEST).read_text())["left_out"] == [
        "vector_db (vector_db/one/index.bin cannot be read)"
    ]


@pytest.mark.parametrize(
    ("times", "left_out"), [(0, []), (1, []), (2, []), (3, ["vector_db (it changed during"])]
)
@pytest.mark.parametrize("what", ["vectors", "new segment", "gone segment", "database"])
def test_an_index_that_is_written_to_meanwhile_is_copied_again_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, times: int, left_out: list[str]
) -> None:
    """Its database and its vectors are of one moment, or they are not stored."""
    house = data(tmp_path / "house")
    for number in range(4):
        (house / f"vector_db/gone-{number}").mkdir()
        (house / f"vector_db/gone-{number}/index.bin").touch()
    real = backup.copy_database
    copies: list[Path] = []

    def late(source: Path, target: Path) -> None:
        real(source, target)
        if source.name == "webui.db" or len(copies) == times:
            return
        copies.append(source)
        if what == "vectors":
            (house / "vector_db/one/index.bin").write_bytes(b"\2" * len(copies))
        elif what == "new segment":
            (house / f"vector_db/{len(copies)}").mkdir()
        elif what == "gone segment":
            shutil.rmtree(house / f"vector_db/gone-{len(copies)}")
        else:
            with closing(sqlite3.connect(source)) as base:
                base.execute("INSERT INTO embeddings VALUES ('x')")
                base.commit()

    monkeypatch.setattr(backup, "copy_database", late)

    code, target = ran(tmp_path, house)

    about = json.loads((target / MANIFEST).read_text())
    assert code == 0
    assert [entry.partition(" each ")[0] for entry in about["left_out"]] == left_out
    if not left_out:
        written = (house / "vector_db/one/index.bin").read_bytes()
        assert (target / "vector_db/one/index.bin").read_bytes() == written
        # What is gone was not stored by an earlier try.
        assert {*backup.files(target / "vector_db")} == {*backup.files(house / "vector_db")}
    check(target, about)


def test_files_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    house = data(tmp_path / "house")
    for name in ("c", "b"):
        (house / "uploads" / name).touch()
        broken_disk(house / "uploads" / name)
    (house / "uploads/a\n").symlink_to("a\n")  # it leads to itself
    (house / "uploads/d").symlink_to("/nowhere/at/all")
    os.mkfifo(house / "uploads/e")

    code, target = ran(tmp_path, house)

    (line,) = capsys.readouterr().out.splitlines()
    assert code == 0
    assert line.partition("; left out: ")[2].startswith(
        "uploads/a\\n, uploads/b, uploads/c and 2 more; "
    )
    about = json.loads((target / MANIFEST).read_text())
    assert "vector_db/chroma.sqlite3" in about["files"]
    assert "uploads/file" in about["files"]
    # Not half of them either.
    assert [path.name for path in (target / "uploads").iterdir()] == ["file"]
    verify(target / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 5)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of somebody who, unlike root, may not read everything; and to be that one."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield Path(folder)
        if root:
            os.seteuid(0)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("uploads/file", ["uploads/file"]),
        ("uploads/shelf", ["uploads/shelf"]),
        ("uploads", ["uploads"]),
        ("vector_db/chroma.sqlite3", ["vector_db"]),
        ("vector_db/one", ["vector_db"]),
        ("vector_db/one/index.bin", ["vector_db"]),
        ("vector_db", ["vector_db"]),
    ],
)
def test_what_may_not_be_read_is_left_out(nobody: Path, name: str, left_out: list[str]) -> None:
    house = data(nobody / "house")
    (house / "uploads/shelf").mkdir()
    (house / "uploads/shelf/file").write_text("x")
    (house / name).chmod(0)

    code, target = ran(nobody, house)

    (house / name).chmod(0o700)
    about = json.loads((target / MANIFEST).read_text())
    assert code == 0
    assert [entry.partition(" ")[0] for entry in about["left_out"]] == left_out
    assert "webui.db" in about["files"]
    check(target, about)


def test_chats_that_may_not_be_read_are_no_backup(
    nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    house = data(nobody / "house")
    (house / "webui.db").chmod(0)

    code, target = ran(nobody, house)

    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert "Permission denied" in capsys.readouterr().out


@pytest.mark.parametrize(
    "gone",
    [
        ("uploads/gone",),
        ("uploads/shelf",),
        ("uploads/gone", "uploads/shelf/gone", "uploads/shelf"),
        ("uploads",),
        ("vector_db/one/index.bin",),
        ("vector_db/one",),
        ("vector_db",),
    ],
    ids="+".join,
)
def test_what_is_deleted_meanwhile_is_no_error(
    tmp_path: Path, gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = data(tmp_path / "house")
    (house / "uploads/shelf").mkdir()
    for name in ("uploads/gone", "uploads/shelf/gone"):
        (house / name).write_text("x")
    real = shutil.copyfile

    def late(source: str | Path, target: str | Path, **more: bool) -> object:
        """Delete it once its folder has been listed, before the first file there is copied."""
        if gone[0].split("/")[0] in os.fspath(source):
            for name in gone:
                if (house / name).is_dir():
                    shutil.rmtree(house / name)
                (house / name).unlink(missing_ok=True)
        return real(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", late)

    code, target = ran(tmp_path, house)

    about = json.loads((target / MANIFEST).read_text())
    assert (code, about["left_out"]) == (0, [])
    kept = {name for name in about["files"] if name.startswith(gone)}
    assert kept <= {"vector_db/chroma.sqlite3"}  # it was copied before
    check(target, about)


def test_files_that_come_and_go_all_the_time_are_no_error(tmp_path: Path) -> None:
    house = data(tmp_path / "house")
    uploads = house / "uploads"
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            shelf = uploads / f"{number}"  # never again
            shelf.mkdir()
            for name in range(20):
                (shelf / f"{name}").write_bytes(bytes(100_000))
            shutil.rmtree(shelf)
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(30):
            (tmp_path / f"{number}").mkdir()
            code, target = ran(tmp_path / f"{number}", house)
            about = json.loads((target / MANIFEST).read_text())
            assert (code, about["left_out"]) == (0, [])
            assert "uploads/file" in about["files"]
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_scratch_space_is_no_fault_of_the_files(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(source: str | Path, target: str | Path, **_: bool) -> None:
        if "uploads" in os.fspath(source):
            raise OSError(number, os.strerror(number), str(target))

    house = data(tmp_path / "house")
    monkeypatch.setattr(shutil, "copyfile", full)

    code, target = ran(tmp_path, house)

    (line,) = capsys.readouterr().out.splitlines()
    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert line == f"snapshot failed: the scratch space: {os.strerror(number)}"


def test_a_name_that_is_no_utf_8_is_told(tmp_path: Path) -> None:
    house = data(tmp_path / "house")
    (house / "uploads" / os.fsdecode(b"no\xff")).symlink_to("/nowhere")
    environment = {"WEBUI_SECRET_KEY": "x", "PYTHONIOENCODING": "utf-8:strict"}

    done = subprocess.run(
        [sys.executable, backup.__file__, "snapshot", house, tmp_path / "to", tmp_path / "name"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "left out: uploads/no\\udcff; " in done.stdout


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
        (rotten, "uploads/file differs from the snapshot"),
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
    assert "the secret key has changed" not in capsys.readouterr().out


@pytest.mark.parametrize("what", ["vector_db", "uploads"])
def test_a_restore_keeps_no_old_part_that_the_snapshot_lacks(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house = data(tmp_path / "house")
    before = data(tmp_path / "before")
    if what == "vector_db":
        overwritten(before / "vector_db/chroma.sqlite3")
    else:
        shutil.rmtree(before / what)
    code, target = ran(tmp_path, before)
    assert code == 0
    shutil.copytree(target, house / ".restore")
    key = tmp_path / "key"
    (house / ".restore/webui-secret-key").rename(key)
    capsys.readouterr()

    assert main("restore", str(house / ".restore"), str(house), str(key)) == 0

    said = capsys.readouterr().out
    (aside,) = house.glob(".before-restore-*")
    assert not (house / what).exists()
    assert (aside / what).is_dir()
    assert (house / "webui.db").exists()
    assert ("left out: vector_db (" in said) == (what == "vector_db")
    assert said.endswith("Reindex Knowledge and Memory Vectors\n") == (what == "vector_db")


def test_a_snapshot_from_before_anything_was_left_out_is_restored(tmp_path: Path) -> None:
    house, key = fetched(tmp_path)
    about = json.loads((house / ".restore" / MANIFEST).read_text())
    del about["left_out"]
    (house / ".restore" / MANIFEST).write_text(json.dumps(about))

    restore(house / ".restore", house, key)

    assert (house / "vector_db/chroma.sqlite3").exists()


@pytest.mark.parametrize("why", ["newer", "rotten"])
def test_what_does_not_fit_is_refused_and_nothing_is_touched(
    tmp_path: Path, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    house, key = fetched(tmp_path, KNOWN if why == "rotten" else "bbbb00000002")
    if why == "rotten":
        rotten(house / ".restore")

    assert main("restore", str(house / ".restore"), str(house), str(key)) == 1
    told = "differs from the snapshot" if why == "rotten" else "which this image does not know"
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
