"""Snapshot, verify and restore what Open WebUI keeps; restic stores it in between.

Runs on Open WebUI's image, which has Python 3.11, and knows its own schema.
"""

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

# Beside these there are caches, which are made anew, and what an earlier restore put aside.
DATABASES = ("webui.db", "vector_db/chroma.sqlite3")
UPLOADS, INDEX = "uploads", "vector_db"
MANIFEST = "manifest.json"
KEY = "webui-secret-key"
WORDS = (("user", "users"), ("chat", "chats"), ("file", "uploads"))
"""Tables whose rows are told, and what to call them."""
TRIES = 3
PROGRESS = 5.0
"""Seconds between two lines of progress."""


class BackupError(Exception):
    """Why it cannot go on, in words for a person."""


class HalfDoneError(Exception):
    """What was moved could not be moved back, so that nothing may start on it."""


def say(text: str) -> None:
    """Print a line at once, whoever reads along."""
    print(text, flush=True)


def readable(database: Path) -> sqlite3.Connection:
    """Open a database that may be served, on a volume that may be read-only."""
    with database.open("rb") as file:
        journal = file.read(20)[18:19]  # 2 is a write-ahead log (sqlite.org/fileformat2.html)
    # Whoever serves it has a log beside it. Without one nobody does, and SQLite would have to
    # make one to read it.
    alone = journal == b"\x02" and not Path(f"{database}-wal").exists()
    mode = "immutable=1" if alone else "readonly_shm=1"
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro&{mode}", uri=True, timeout=60)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database through SQLite itself: a copy of the file alone lacks what is in its log."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(readable(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            # One file, whatever reads it: a log beside it would not be in the manifest.
            new.execute("PRAGMA journal_mode=DELETE")
    except FileNotFoundError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise BackupError(f"{source.name} cannot be copied: {error}") from error


def rows(database: Path) -> dict[str, int]:
    """Count the rows of every table, and raise BackupError if SQLite finds the file damaged."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as open_:
        try:
            found = [row[0] for row in open_.execute("PRAGMA integrity_check")]
            if found != ["ok"]:
                fault = " ".join(found[0].splitlines()[:2])  # of a heading and a hundred faults
                raise BackupError(f"{database.name} is damaged: {fault}")
            tables = open_.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall()
            return {
                name: open_.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for (name,) in sorted(tables)
            }
        except sqlite3.DatabaseError as error:
            raise BackupError(f"{database.name} is damaged: {error}") from error


def revision(database: Path) -> str:
    """Give the version of the schema; empty where a database has none."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as open_:
        try:
            found = open_.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return ""
        return str(found[0]) if found else ""


def files(folder: Path) -> Iterator[str]:
    """Yield the path of every file below `folder`, as a manifest has it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, KEY):
            yield str(path.relative_to(folder))


def described(folder: Path, progress: str) -> dict[str, Any]:
    """Describe what is in a folder: rows by table, SHA-256 by file, and bytes in all."""
    told, found, done = time.monotonic(), {}, 0
    for name in files(folder):
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        done += (folder / name).stat().st_size
        if time.monotonic() - told > PROGRESS:
            told = time.monotonic()
            say(f"{progress}: {len(found)} files, {done / 1e9:.2f} GB")
    present = [name for name in DATABASES if name in found]
    return {
        # First, because it finds what is damaged.
        "rows": {name: rows(folder / name) for name in present},
        "revision": revision(folder / DATABASES[0]),
        "files": found,
        "bytes": done,
    }


def copy_files(data: Path, name: str, target: Path) -> list[str]:
    """Copy a folder that is in use, and give what cannot be read; what is gone is not missed."""
    unread: list[str] = []

    def failed(path: Path, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupError(f"the scratch space: {error.strerror}") from error
        if not isinstance(error, FileNotFoundError) or os.path.lexists(path):
            # Escaped: a name may have a line feed, or be no UTF-8.
            unread.append(repr(str(path.relative_to(data)))[1:-1])

    walk = os.walk(data / name, onerror=lambda e: failed(Path(e.filename), e), followlinks=True)
    databases = tuple(Path(database).name for database in DATABASES)  # and their logs
    for place, _, names in walk:
        folder = target / Path(place).relative_to(data)
        folder.mkdir(parents=True, exist_ok=True)
        for path in (Path(place, name) for name in names if not name.startswith(databases)):
            try:
                shutil.copy2(path, folder / path.name)
            except OSError as error:
                (folder / path.name).unlink(missing_ok=True)
                failed(path, error)
    return sorted(unread)


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file below `folder` was written last, in ns, and its size in bytes."""
    found = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


def copy_index(data: Path, target: Path) -> list[str]:
    """Copy the index whole, or leave it out and say so: it can be made anew from the uploads."""
    try:
        for _ in range(TRIES):
            before = written(data / INDEX)
            with suppress(FileNotFoundError):
                copy_database(data / DATABASES[1], target / DATABASES[1])
                rows(target / DATABASES[1])
            if unread := copy_files(data, INDEX, target):
                raise BackupError(f"{unread[0]} cannot be read")
            # Its vectors are written in place, beside the database: of two moments they do not fit.
            if written(data / INDEX) == before:
                return []
            shutil.rmtree(target / INDEX, ignore_errors=True)
        raise BackupError("it was written to all the time")
    except (BackupError, OSError) as error:
        shutil.rmtree(target / INDEX, ignore_errors=True)
        return [f"{INDEX} ({error})"]


def snapshot(data: Path, target: Path, image: Path) -> None:
    """Copy what Open WebUI keeps to `target`, the databases first, then the files they name.

    The secret key goes with it; the file `image` says which Open WebUI is running.
    """
    began = time.time()
    if not (data / DATABASES[0]).exists():
        say("nothing to back up: Open WebUI has not made its database yet")
        return
    if not (key := os.environ.get("WEBUI_SECRET_KEY")):
        raise BackupError("WEBUI_SECRET_KEY: missing; what it encrypted could not be read again")
    target.mkdir()
    (target / KEY).write_text(key)
    copy_database(data / DATABASES[0], target / DATABASES[0])
    left_out = [*copy_index(data, target), *copy_files(data, UPLOADS, target)]
    about = {
        "time": began,
        # Of the Open WebUI that wrote it; known from the second image on.
        "image": image.read_text() if image.exists() else "unknown",
        "left_out": left_out,
        **described(target, "snapshot"),
    }
    if not about["revision"]:
        raise BackupError(f"{DATABASES[0]} has no schema, so that nothing could be restored")
    (target / MANIFEST).write_text(json.dumps(about))
    if lacks := lacking(about):
        # repository.sh has the last word.
        target.with_name("left-out").write_text(f"{lacks}\n")
    say(f"snapshot: {summary(about)}; {time.time() - began:.1f} s")


def lacking(about: dict[str, Any]) -> str:
    """Say what a snapshot lacks; empty if nothing."""
    names = about.get("left_out", [])  # older ones have none
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"left out: {', '.join(names[:3])}{more}" if names else ""


def summary(about: dict[str, Any]) -> str:
    """Say in a few words what a snapshot holds, and what it lacks."""
    main = about["rows"].get(DATABASES[0], {})
    counts = [f"{main[table]} {word}" for table, word in WORDS if table in main]
    size = f"{len(about['files'])} files, {about['bytes'] / 1e6:.1f} MB"
    held = ", ".join([*counts, size, f"schema {about['revision'] or 'unknown'}"])
    return "; ".join(filter(None, [held, lacking(about)]))


def check(folder: Path, about: dict[str, Any]) -> None:
    """Raise BackupError unless what is in `folder` is what was described."""
    found = described(folder, "verifying")
    if missing := about["files"].keys() - found["files"].keys():
        raise BackupError(f"{len(missing)} files are missing, {min(missing)} first")
    for name, counted in about["rows"].items():
        if found["rows"][name] != counted:
            wrong = sorted(set(counted.items()) ^ set(found["rows"][name].items()))
            raise BackupError(f"{name}: table {wrong[0][0]} has another number of rows")
    for name in found["files"]:
        if found["files"][name] != about["files"].get(name):
            raise BackupError(f"{name} is not what was backed up")


def verify(manifest: Path, folder: Path) -> None:
    """Compare what came back from the repository with what went in, and push the result."""
    if not manifest.exists():
        return
    about = json.loads(manifest.read_text())
    try:
        check(folder, about)
        if (folder / KEY).read_text() != os.environ.get("WEBUI_SECRET_KEY"):
            raise BackupError(f"{KEY} is not what was backed up")
    except (BackupError, OSError):
        push({"homelab.backup.verified": ("", 0)})
        raise
    took = time.time() - about["time"]
    say(f"verified: {summary(about)}; {took:.1f} s in all")
    push(
        {
            "homelab.backup.verified": ("", 1),
            "homelab.backup.last_success.timestamp": ("s", about["time"]),
            "homelab.backup.duration": ("s", took),
            "homelab.backup.size": ("By", about["bytes"]),
            "homelab.backup.left_out": ("", len(about["left_out"])),
        }
    )


def push(values: dict[str, tuple[str, float]]) -> None:
    """Push gauges, each a unit and a value; failing to is said, and no reason to fail."""
    if not (url := os.environ.get("BACKUP_OTLP_URL")):
        return
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult

    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("homelab.backup")
    for name, (unit, value) in values.items():
        meter.create_gauge(name, unit).set(value)
    data = reader.get_metrics_data()
    done = data and OTLPMetricExporter(endpoint=url, timeout=30).export(data)
    if done != MetricExportResult.SUCCESS:
        say(f"the result could not be pushed to {url}")


def known_revisions() -> set[str]:
    """Give the versions of the schema that this image's Open WebUI knows."""
    sys.path.append(str(Path.cwd()))  # where the image has it; installed, it is on the path anyway
    found = importlib.util.find_spec("open_webui")
    places = list(found.submodule_search_locations or []) if found else []
    return {
        match[1]
        for place in places
        for file in Path(place, "migrations/versions").glob("*.py")
        if (match := re.search(r"^revision\b.*?=\s*['\"](\w+)", file.read_text(), re.MULTILINE))
    }


def restore(folder: Path, data: Path, key: Path) -> None:
    """Put a verified snapshot from `folder` in place of what is in `data`, which is kept aside.

    The file `key` holds the secret key that the snapshot was sealed with. `folder` is on the
    same file system as `data`, so that nothing is copied any more.
    """
    about = json.loads((folder / MANIFEST).read_text())
    try:
        check(folder, about)
        if about["revision"] not in known_revisions():
            raise BackupError(
                f"the backup has schema {about['revision']}, which this image does not know:"
                f" it was made with a newer one, {about['image']}"
            )
    except BackupError:
        # The room that it takes is the room of the data.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if key.read_text() != os.environ.get("WEBUI_SECRET_KEY"):
        say("another secret key: everybody signs in again, and second factors are set up anew")
    (folder / MANIFEST).unlink()
    aside = data / f".before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for old in [path for path in data.iterdir() if path != folder and path.name[0] != "."]:
            moved.append((old, old.rename(aside / old.name)))
        for new in list(folder.iterdir()):
            moved.append((new, new.rename(data / new.name)))
    except OSError as error:
        try:
            for before, now in reversed(moved):
                now.rename(before)
        except OSError as worse:
            raise HalfDoneError(f"{error}; and back: {worse}; the rest is in {aside}") from worse
        raise
    shutil.rmtree(folder, ignore_errors=True)
    again = ""
    if any(entry.startswith(f"{INDEX} ") for entry in about.get("left_out", [])):
        again = (
            "; documents are found again once an admin has them indexed on the page: Admin Panel,"
            " Settings, Documents, Reindex Knowledge and Memory Vectors"
        )
    # One line: `make restore` ends with it.
    say(f"restored: {summary(about)}; what was there before is in {aside.name}{again}")


COMMANDS: dict[str, Callable[..., None]] = {
    "snapshot": snapshot,
    "verify": verify,
    "restore": restore,
}


def main(command: str, *paths: str) -> int:
    """Run one command on its paths, and return the exit code; 1 has touched nothing, 2 has."""
    try:
        COMMANDS[command](*(Path(path) for path in paths))
    except (BackupError, OSError, sqlite3.Error) as error:
        say(f"{command} failed: {error}")
        return 1
    except HalfDoneError as error:
        say(f"{command} failed half way: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
