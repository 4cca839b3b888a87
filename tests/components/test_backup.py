"""programs/backup.py: takes, verifies and restores snapshots, on small databases."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
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
    """Sets up an image with one migration, and a secret key."""
    versions = tmp_path / "image/open_webui/migrations/versions"
    versions.mkdir(parents=True)
    (versions.parent.parent / "__init__.py").touch()
    (versions / "first.py").write_text(f"revision: str = '{KNOWN}'\ndown_revision = None\n")
    monkeypatch.chdir(tmp_path / "image")
    monkeypatch.setenv("WEBUI_SECRET_KEY", "of the volume")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("open_webui", None)


def data(folder: Path, revision: str = KNOWN) -> Path:
    """Write Open WebUI's data: both databases, an upload, an index, and a cache."""
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


def new_snapshot(tmp_path: Path, revision: str = KNOWN) -> Path:
    """Take a snapshot of new data; return its folder."""
    target = tmp_path / f"snapshot-{revision}"
    snapshot(data(tmp_path / f"data-{revision}", revision), target, tmp_path / "image-name")
    return target


@pytest.mark.parametrize("end", ["kill", "close"])
def test_all_rows_are_read_whether_the_writer_was_killed_or_stopped(
    tmp_path: Path, end: str
) -> None:
    base = tmp_path / "webui.db"
    subprocess.run([sys.executable, "-c", WRITER, base, end], check=False)
    assert Path(f"{base}-wal").exists() == (end == "kill")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("webui.db*")}

    with closing(connect(base)) as opened:
        assert opened.execute("SELECT count(*) FROM chat").fetchone() == (500,)

    assert {path.name: path.read_bytes() for path in tmp_path.glob("webui.db*")} == before


def test_a_snapshot_has_the_data_without_cache_and_a_manifest(tmp_path: Path) -> None:
    target = new_snapshot(tmp_path)
    manifest = json.loads((target / MANIFEST).read_text())

    assert manifest["rows"]["webui.db"]["chat"] == 20
    assert manifest["revision"] == KNOWN
    assert manifest["image"] == "unknown"
    assert set(manifest["files"]) == {
        "webui.db",
        "vector_db/chroma.sqlite3",
        "vector_db/one/index.bin",
        "uploads/file",
    }
    assert (target / "webui-secret-key").read_text() == "of the volume"


def test_a_snapshot_without_the_secret_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBUI_SECRET_KEY")

    with pytest.raises(BackupError, match="WEBUI_SECRET_KEY: missing"):
        new_snapshot(tmp_path)


def test_without_data_there_is_no_snapshot_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    code = main("snapshot", str(tmp_path / "empty"), str(tmp_path / "to"), str(tmp_path / "name"))

    assert (code, (tmp_path / "to").exists()) == (0, False)
    assert "nothing to back up" in capsys.readouterr().out


def run_snapshot(tmp_path: Path, volume: Path) -> tuple[int, Path]:
    """Take a snapshot as the Job does; return exit code and folder."""
    target = tmp_path / "scratch/snapshot"
    target.parent.mkdir(exist_ok=True)
    return main("snapshot", str(volume), str(target), str(tmp_path / "name")), target


def overwritten(file: Path, at: int = 4096, with_: bytes = b"\xff" * 4096) -> None:
    raw = bytearray(file.read_bytes())
    raw[at : at + len(with_)] = with_
    file.write_bytes(raw)


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def broken_disk(file: Path) -> None:
    """Make every read an I/O error, for root too: address 0 of /proc/self/mem is not mapped."""
    file.unlink()
    file.symlink_to("/proc/self/mem")


DAMAGES: dict[str, Callable[[Path], object]] = {
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


def checkpointed(database: Path) -> Path:
    """Move the write-ahead log into the database, so that its pages are read."""
    with closing(sqlite3.connect(database)) as base:
        base.execute("PRAGMA journal_mode=DELETE")
    return database


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_index_is_left_out_and_the_chats_are_stored(
    tmp_path: Path,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    volume = data(tmp_path / "volume")
    damage(checkpointed(volume / "vector_db/chroma.sqlite3"))

    code, target = run_snapshot(tmp_path, volume)

    output = capsys.readouterr().out
    assert code == 0, output
    assert len(output.splitlines()) == 1
    assert "left out: vector_db (" in output
    assert not (target / "vector_db").exists()
    manifest = json.loads((target / MANIFEST).read_text())
    assert set(manifest["files"]) == {"webui.db", "uploads/file"}
    # repository.sh prints this file as its last line.
    sentence = (target.parent / "left-out").read_text()
    assert sentence.endswith("\n")
    assert sentence.startswith("left out: vector_db (")
    assert len(sentence.splitlines()) == 1
    (target / MANIFEST).rename(tmp_path / MANIFEST)
    verify(tmp_path / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 1)
    assert "homelab.backup.last_success.timestamp" in pushed[0]
    assert sentence.strip() in capsys.readouterr().out


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damaged_chats_fail_the_backup(
    tmp_path: Path, damage: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    volume = data(tmp_path / "volume")
    damage(checkpointed(volume / "webui.db"))

    code, target = run_snapshot(tmp_path, volume)

    (line,) = capsys.readouterr().out.splitlines()
    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert line.startswith("snapshot failed: ")
    assert "[(" not in line
    assert "webui.db" in line


def test_an_empty_database_of_chats_fails_the_backup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = data(tmp_path / "volume")
    os.truncate(checkpointed(volume / "webui.db"), 0)

    code, target = run_snapshot(tmp_path, volume)

    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert "snapshot failed: webui.db has no schema" in capsys.readouterr().out


@pytest.mark.parametrize("index_state", ["empty", "absent", "no folder"])
def test_an_empty_or_missing_index_is_not_reported_as_damaged(
    tmp_path: Path, index_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    volume = data(tmp_path / "volume")
    index = volume / "vector_db/chroma.sqlite3"
    if index_state == "empty":
        os.truncate(index, 0)
    elif index_state == "absent":
        index.unlink()
    else:
        shutil.rmtree(index.parent)

    code, target = run_snapshot(tmp_path, volume)

    manifest = json.loads((target / MANIFEST).read_text())
    files = {"empty": {"one/index.bin", "chroma.sqlite3"}, "absent": {"one/index.bin"}}
    assert code == 0
    assert set(manifest["files"]) == {"webui.db", "uploads/file"} | {
        f"vector_db/{name}" for name in files.get(index_state, set())
    }
    assert not (target.parent / "left-out").exists()
    verify(target / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 0)


def test_an_index_with_one_unreadable_file_is_left_out(tmp_path: Path) -> None:
    volume = data(tmp_path / "volume")
    broken_disk(volume / "vector_db/one/index.bin")

    code, target = run_snapshot(tmp_path, volume)

    assert (code, (target / "vector_db").exists()) == (0, False)
    assert json.loads((target / MANIFEST).read_text())["left_out"] == [
        "vector_db (vector_db/one/index.bin cannot be read)"
    ]


@pytest.mark.parametrize(
    ("times", "left_out"), [(0, []), (1, []), (2, []), (3, ["vector_db (it changed during"])]
)
@pytest.mark.parametrize("change", ["vectors", "new segment", "gone segment", "database"])
def test_an_index_that_changes_during_the_copy_is_copied_again_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, times: int, left_out: list[str]
) -> None:
    volume = data(tmp_path / "volume")
    for number in range(4):
        (volume / f"vector_db/gone-{number}").mkdir()
        (volume / f"vector_db/gone-{number}/index.bin").touch()
    real = backup.copy_database
    copies: list[Path] = []

    def late(source: Path, target: Path) -> None:
        real(source, target)
        if source.name == "webui.db" or len(copies) == times:
            return
        copies.append(source)
        if change == "vectors":
            (volume / "vector_db/one/index.bin").write_bytes(b"\2" * len(copies))
        elif change == "new segment":
            (volume / f"vector_db/{len(copies)}").mkdir()
        elif change == "gone segment":
            shutil.rmtree(volume / f"vector_db/gone-{len(copies)}")
        else:
            with closing(sqlite3.connect(source)) as base:
                base.execute("INSERT INTO embeddings VALUES ('x')")
                base.commit()

    monkeypatch.setattr(backup, "copy_database", late)

    code, target = run_snapshot(tmp_path, volume)

    manifest = json.loads((target / MANIFEST).read_text())
    assert code == 0
    assert [entry.partition(" each ")[0] for entry in manifest["left_out"]] == left_out
    if not left_out:
        written = (volume / "vector_db/one/index.bin").read_bytes()
        assert (target / "vector_db/one/index.bin").read_bytes() == written
        # No files of an earlier try.
        assert {*backup.files(target / "vector_db")} == {*backup.files(volume / "vector_db")}
    check(target, manifest)


def test_files_that_cannot_be_read_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    volume = data(tmp_path / "volume")
    for name in ("c", "b"):
        (volume / "uploads" / name).touch()
        broken_disk(volume / "uploads" / name)
    (volume / "uploads/a\n").symlink_to("a\n")  # it leads to itself
    (volume / "uploads/d").symlink_to("/nowhere/at/all")
    os.mkfifo(volume / "uploads/e")

    code, target = run_snapshot(tmp_path, volume)

    (line,) = capsys.readouterr().out.splitlines()
    assert code == 0
    assert line.partition("; left out: ")[2].startswith(
        "uploads/a\\n, uploads/b, uploads/c and 2 more; "
    )
    manifest = json.loads((target / MANIFEST).read_text())
    assert "vector_db/chroma.sqlite3" in manifest["files"]
    assert "uploads/file" in manifest["files"]
    # No partial copies.
    assert [path.name for path in (target / "uploads").iterdir()] == ["file"]
    verify(target / MANIFEST, target)
    assert pushed[0]["homelab.backup.left_out"] == ("", 5)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of an unprivileged user; the test runs as that user."""
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
def test_files_without_read_permission_are_left_out(
    nobody: Path, name: str, left_out: list[str]
) -> None:
    volume = data(nobody / "volume")
    (volume / "uploads/shelf").mkdir()
    (volume / "uploads/shelf/file").write_text("x")
    (volume / name).chmod(0)

    code, target = run_snapshot(nobody, volume)

    (volume / name).chmod(0o700)
    manifest = json.loads((target / MANIFEST).read_text())
    assert code == 0
    assert [entry.partition(" ")[0] for entry in manifest["left_out"]] == left_out
    assert "webui.db" in manifest["files"]
    check(target, manifest)


def test_chats_without_read_permission_fail_the_backup(
    nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = data(nobody / "volume")
    (volume / "webui.db").chmod(0)

    code, target = run_snapshot(nobody, volume)

    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert "Permission denied" in capsys.readouterr().out


@pytest.mark.parametrize(
    "deleted",
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
def test_files_deleted_during_the_copy_are_no_error(
    tmp_path: Path, deleted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = data(tmp_path / "volume")
    (volume / "uploads/shelf").mkdir()
    for name in ("uploads/gone", "uploads/shelf/gone"):
        (volume / name).write_text("x")
    real = shutil.copyfile

    def late(source: str | Path, target: str | Path, **more: bool) -> object:
        """Delete the paths after their folder was listed, before its first file is copied."""
        if deleted[0].split("/")[0] in os.fspath(source):
            for name in deleted:
                if (volume / name).is_dir():
                    shutil.rmtree(volume / name)
                (volume / name).unlink(missing_ok=True)
        return real(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", late)

    code, target = run_snapshot(tmp_path, volume)

    manifest = json.loads((target / MANIFEST).read_text())
    assert (code, manifest["left_out"]) == (0, [])
    copied = {name for name in manifest["files"] if name.startswith(deleted)}
    assert copied <= {"vector_db/chroma.sqlite3"}  # copied before the deletion
    check(target, manifest)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_scratch_volume_fails_the_backup_and_leaves_no_file_out(
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(source: str | Path, target: str | Path, **_: bool) -> None:
        if "uploads" in os.fspath(source):
            raise OSError(number, os.strerror(number), str(target))

    volume = data(tmp_path / "volume")
    monkeypatch.setattr(shutil, "copyfile", full)

    code, target = run_snapshot(tmp_path, volume)

    (line,) = capsys.readouterr().out.splitlines()
    assert (code, (target / MANIFEST).exists()) == (1, False)
    assert line == f"snapshot failed: the scratch space: {os.strerror(number)}"


def test_a_file_name_that_is_not_utf_8_is_printed_escaped(tmp_path: Path) -> None:
    volume = data(tmp_path / "volume")
    (volume / "uploads" / os.fsdecode(b"no\xff")).symlink_to("/nowhere")
    environment = {"WEBUI_SECRET_KEY": "x", "PYTHONIOENCODING": "utf-8:strict"}

    process = subprocess.run(
        [sys.executable, backup.__file__, "snapshot", volume, tmp_path / "to", tmp_path / "name"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert "left out: uploads/no\\udcff; " in process.stdout


def change_upload(folder: Path) -> None:
    (folder / "uploads/file").write_text("w0rds")


def delete_rows(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "webui.db")) as base:
        base.execute("DELETE FROM chat WHERE id > 10")
        base.commit()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (change_upload, "uploads/file differs from the snapshot"),
        (
            lambda folder: (folder / "uploads/file").unlink(),
            "1 files are missing, uploads/file first",
        ),
        (lambda folder: overwritten(folder / "webui.db"), "webui.db is damaged"),
        (delete_rows, "webui.db: table chat has another number of rows"),
    ],
)
def test_any_difference_from_the_snapshot_is_an_error(
    tmp_path: Path, damage: Callable[[Path], None], error: str
) -> None:
    target = new_snapshot(tmp_path)
    manifest = json.loads((target / MANIFEST).read_text())
    check(target, manifest)
    damage(target)

    with pytest.raises(BackupError, match=error):
        check(target, manifest)


def test_a_backup_that_differs_is_not_pushed_as_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[dict[str, tuple[str, float]]] = []
    monkeypatch.setattr(backup, "push", pushed.append)
    target = new_snapshot(tmp_path)
    shutil.copy(target / MANIFEST, tmp_path / MANIFEST)
    verify(tmp_path / MANIFEST, target)
    change_upload(target)

    with pytest.raises(BackupError):
        verify(tmp_path / MANIFEST, target)
    assert len(pushed) == 1


def volume_with_fetched_snapshot(tmp_path: Path, revision: str = KNOWN) -> tuple[Path, Path]:
    """Return a volume with newer data and a fetched snapshot, and the file of its secret key."""
    volume = data(tmp_path / "volume")
    (volume / "uploads/file").write_text("newer")
    shutil.copytree(new_snapshot(tmp_path, revision), volume / ".restore")
    key = tmp_path / "key"
    (volume / ".restore/webui-secret-key").rename(key)
    return volume, key


def test_a_restore_replaces_the_data_and_keeps_the_old_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, key = volume_with_fetched_snapshot(tmp_path)
    restore(volume / ".restore", volume, key)

    assert (volume / "uploads/file").read_text() == "words"
    (aside,) = volume.glob(".before-restore-*")
    assert (aside / "uploads/file").read_text() == "newer"
    assert (aside / "cache/big").exists()
    # SQLite would apply an old write-ahead log to the new database.
    assert not list(volume.glob("webui.db-*"))
    assert sorted(path.name for path in volume.iterdir()) == sorted(
        [aside.name, "uploads", "vector_db", "webui.db"]
    )
    assert "the secret key has changed" not in capsys.readouterr().out


@pytest.mark.parametrize("part", ["vector_db", "uploads"])
def test_a_restore_removes_what_the_snapshot_lacks(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = data(tmp_path / "volume")
    source = data(tmp_path / "before")
    if part == "vector_db":
        overwritten(source / "vector_db/chroma.sqlite3")
    else:
        shutil.rmtree(source / part)
    code, target = run_snapshot(tmp_path, source)
    assert code == 0
    shutil.copytree(target, volume / ".restore")
    key = tmp_path / "key"
    (volume / ".restore/webui-secret-key").rename(key)
    capsys.readouterr()

    assert main("restore", str(volume / ".restore"), str(volume), str(key)) == 0

    output = capsys.readouterr().out
    (aside,) = volume.glob(".before-restore-*")
    assert not (volume / part).exists()
    assert (aside / part).is_dir()
    assert (volume / "webui.db").exists()
    assert ("left out: vector_db (" in output) == (part == "vector_db")
    assert output.endswith("Reindex Knowledge and Memory Vectors\n") == (part == "vector_db")


def test_a_manifest_without_left_out_is_restored(tmp_path: Path) -> None:
    volume, key = volume_with_fetched_snapshot(tmp_path)
    manifest = json.loads((volume / ".restore" / MANIFEST).read_text())
    del manifest["left_out"]
    (volume / ".restore" / MANIFEST).write_text(json.dumps(manifest))

    restore(volume / ".restore", volume, key)

    assert (volume / "vector_db/chroma.sqlite3").exists()


@pytest.mark.parametrize("problem", ["newer", "changed"])
def test_a_snapshot_that_differs_or_is_newer_is_refused_and_changes_nothing(
    tmp_path: Path, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    volume, key = volume_with_fetched_snapshot(
        tmp_path, KNOWN if problem == "changed" else "bbbb00000002"
    )
    if problem == "changed":
        change_upload(volume / ".restore")

    assert main("restore", str(volume / ".restore"), str(volume), str(key)) == 1
    message = (
        "differs from the snapshot" if problem == "changed" else "which this image does not know"
    )
    assert message in capsys.readouterr().out
    assert (volume / "uploads/file").read_text() == "newer"
    assert not list(volume.glob(".before-restore-*"))
    assert not (volume / ".restore").exists(), "it takes space on the disk"


def break_renames(patch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> list[int]:
    """Let the renames fail for whose number, from 1, `fails` is true; return their numbers."""
    real = Path.rename
    calls: list[int] = []

    def rename(self: Path, target: Path) -> Path:
        calls.append(len(calls) + 1)
        if fails(calls[-1]):
            raise OSError(5, "Input/output error")
        return real(self, target)

    patch.setattr(Path, "rename", rename)
    return calls


def test_a_restore_that_fails_half_way_moves_the_data_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, key = volume_with_fetched_snapshot(tmp_path)
    calls = break_renames(monkeypatch, lambda number: number == 6)

    assert main("restore", str(volume / ".restore"), str(volume), str(key)) == 1
    assert len(calls) > 6
    assert (volume / "uploads/file").read_text() == "newer"
    assert {path.name for path in volume.iterdir()} >= {"webui.db", "uploads", "vector_db", "cache"}


def test_data_that_cannot_be_moved_back_is_another_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, key = volume_with_fetched_snapshot(tmp_path)
    break_renames(monkeypatch, lambda number: number >= 3)

    assert main("restore", str(volume / ".restore"), str(volume), str(key)) == 2
