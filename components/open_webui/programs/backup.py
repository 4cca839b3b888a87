"""Snapshot, verify and restore Open WebUI's data; restic stores the snapshots.

Runs on Open WebUI's image, which has Python 3.11 and Open WebUI's migrations.
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

# Everything else is a cache, or the replaced data of an earlier restore.
DATABASES = ("webui.db", "vector_db/chroma.sqlite3")
UPLOADS, INDEX = "uploads", "vector_db"
MANIFEST = "manifest.json"
KEY = "webui-secret-key"
TABLES = (("user", "users"), ("chat", "chats"), ("file", "uploads"))
"""Tables whose number of rows is printed, and their plurals."""
ATTEMPTS = 3
PROGRESS = 5.0
"""Interval of progress lines, in seconds."""


class BackupError(Exception):
    """A failure that changed nothing."""


class HalfDoneError(Exception):
    """A failure that left the data incomplete: Open WebUI must not start."""


def log(text: str) -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def connect(database: Path) -> sqlite3.Connection:
    """Open a database read-only, which may be in use, and on a read-only volume."""
    with database.open("rb") as file:
        journal = file.read(20)[18:19]  # 2 is a write-ahead log (sqlite.org/fileformat2.html)
    # A database in use has a log. Without a log, SQLite would have to create one to read it.
    unused = journal == b"\x02" and not Path(f"{database}-wal").exists()
    mode = "immutable=1" if unused else "readonly_shm=1"
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro&{mode}", uri=True, timeout=60)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database by SQLite's backup API, which includes its write-ahead log."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            # Without a write-ahead log, which would not be in the manifest.
            new.execute("PRAGMA journal_mode=DELETE")
    except FileNotFoundError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise BackupError(f"{source.name} cannot be copied: {error}") from error


def rows(database: Path) -> dict[str, int]:
    """Return the number of rows by table; raises BackupError if the file is damaged."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as open_:
        try:
            result = [row[0] for row in open_.execute("PRAGMA integrity_check")]
            if result != ["ok"]:
                fault = " ".join(result[0].splitlines()[:2])  # of a heading and a hundred faults
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
    """Return the revision of the database's schema; empty if it has none."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as open_:
        try:
            row = open_.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return ""
        return str(row[0]) if row else ""


def files(folder: Path) -> Iterator[str]:
    """Yield the path of every file below `folder`, as in a manifest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, KEY):
            yield str(path.relative_to(folder))


def describe(folder: Path, progress: str) -> dict[str, Any]:
    """Return a folder's content: rows by table, SHA-256 by file, and the sum of bytes."""
    printed, digests, done = time.monotonic(), {}, 0
    for name in files(folder):
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        done += (folder / name).stat().st_size
        if time.monotonic() - printed > PROGRESS:
            printed = time.monotonic()
            log(f"{progress}: {len(digests)} files, {done / 1e9:.2f} GB")
    present = [name for name in DATABASES if name in digests]
    return {
        # First, because it checks the integrity.
        "rows": {name: rows(folder / name) for name in present},
        "revision": revision(folder / DATABASES[0]),
        "files": digests,
        "bytes": done,
    }


def copy_files(data: Path, name: str, target: Path) -> list[str]:
    """Copy a folder that is in use; returns the files that cannot be read, without deleted ones."""
    unreadable: list[str] = []

    def failed(path: Path, error: OSError) -> None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupError(f"the scratch space: {error.strerror}") from error
        if not isinstance(error, FileNotFoundError) or os.path.lexists(path):
            # Escaped: a name may have a line feed, or may not be UTF-8.
            unreadable.append(repr(str(path.relative_to(data)))[1:-1])

    walk = os.walk(data / name, onerror=lambda e: failed(Path(e.filename), e), followlinks=True)
    databases = tuple(Path(database).name for database in DATABASES)  # and their logs
    for directory, _, names in walk:
        folder = target / Path(directory).relative_to(data)
        folder.mkdir(parents=True, exist_ok=True)
        for path in (Path(directory, name) for name in names if not name.startswith(databases)):
            try:
                shutil.copy2(path, folder / path.name)
            except OSError as error:
                (folder / path.name).unlink(missing_ok=True)
                failed(path, error)
    return sorted(unreadable)


def file_states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the modification time in ns and the size in bytes of each file below `folder`."""
    states = {}
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            states[str(path)] = (status.st_mtime_ns, status.st_size)
    return states


def copy_index(data: Path, target: Path) -> list[str]:
    """Copy the vector index; returns why it was left out, as it can be rebuilt from the uploads."""
    try:
        for _ in range(ATTEMPTS):
            before = file_states(data / INDEX)
            with suppress(FileNotFoundError):
                copy_database(data / DATABASES[1], target / DATABASES[1])
                rows(target / DATABASES[1])
            if unreadable := copy_files(data, INDEX, target):
                raise BackupError(f"{unreadable[0]} cannot be read")
            # Vectors are written in place, beside the database, so that copies of two moments are
            # inconsistent.
            if file_states(data / INDEX) == before:
                return []
            shutil.rmtree(target / INDEX, ignore_errors=True)
        raise BackupError(f"it changed during each of {ATTEMPTS} copies")
    except (BackupError, OSError) as error:
        shutil.rmtree(target / INDEX, ignore_errors=True)
        return [f"{INDEX} ({error})"]


def snapshot(data: Path, target: Path, image: Path) -> None:
    """Copy Open WebUI's data to `target`, the databases first, then the files they refer to.

    It includes the secret key; the file `image` has the name of the running image.
    """
    start = time.time()
    if not (data / DATABASES[0]).exists():
        log("nothing to back up: Open WebUI has not created its database yet")
        return
    if not (key := os.environ.get("WEBUI_SECRET_KEY")):
        raise BackupError("WEBUI_SECRET_KEY: missing; data encrypted with it could not be restored")
    target.mkdir()
    (target / KEY).write_text(key)
    copy_database(data / DATABASES[0], target / DATABASES[0])
    left_out = [*copy_index(data, target), *copy_files(data, UPLOADS, target)]
    manifest = {
        "time": start,
        # Unknown until the first upgrade.
        "image": image.read_text() if image.exists() else "unknown",
        "left_out": left_out,
        **describe(target, "snapshot"),
    }
    if not manifest["revision"]:
        raise BackupError(f"{DATABASES[0]} has no schema, so it could not be restored")
    (target / MANIFEST).write_text(json.dumps(manifest))
    if text := omissions(manifest):
        # repository.sh prints it last.
        target.with_name("left-out").write_text(f"{text}\n")
    log(f"snapshot: {summary(manifest)}; {time.time() - start:.1f} s")


def omissions(manifest: dict[str, Any]) -> str:
    """Return what a snapshot left out; empty if nothing."""
    names = manifest.get("left_out", [])  # not in older manifests
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"left out: {', '.join(names[:3])}{more}" if names else ""


def summary(manifest: dict[str, Any]) -> str:
    """Return a summary of a snapshot, and what it left out."""
    counts = manifest["rows"].get(DATABASES[0], {})
    parts = [f"{counts[table]} {plural}" for table, plural in TABLES if table in counts]
    parts.append(f"{len(manifest['files'])} files, {manifest['bytes'] / 1e6:.1f} MB")
    parts.append(f"schema {manifest['revision'] or 'unknown'}")
    return "; ".join(filter(None, [", ".join(parts), omissions(manifest)]))


def check(folder: Path, manifest: dict[str, Any]) -> None:
    """Check that `folder` has the content of the manifest; raises BackupError."""
    content = describe(folder, "verifying")
    if missing := manifest["files"].keys() - content["files"].keys():
        raise BackupError(f"{len(missing)} files are missing, {min(missing)} first")
    for name, counts in manifest["rows"].items():
        if content["rows"][name] != counts:
            different = sorted(set(counts.items()) ^ set(content["rows"][name].items()))
            raise BackupError(f"{name}: table {different[0][0]} has another number of rows")
    for name in content["files"]:
        if content["files"][name] != manifest["files"].get(name):
            raise BackupError(f"{name} differs from the snapshot")


def verify(manifest_file: Path, folder: Path) -> None:
    """Compare a snapshot fetched from the repository with its manifest, and push a success."""
    if not manifest_file.exists():
        return
    manifest = json.loads(manifest_file.read_text())
    check(folder, manifest)
    if (folder / KEY).read_text() != os.environ.get("WEBUI_SECRET_KEY"):
        raise BackupError(f"{KEY} differs from the snapshot")
    log(f"verified: {summary(manifest)}; {time.time() - manifest['time']:.1f} s in total")
    push(
        {
            "homelab.backup.last_success.timestamp": ("s", manifest["time"]),
            "homelab.backup.left_out": ("", len(manifest["left_out"])),
        }
    )


def push(values: dict[str, tuple[str, float]]) -> None:
    """Push gauges, each a unit and a value; a failure is only logged."""
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
    result = data and OTLPMetricExporter(endpoint=url, timeout=30).export(data)
    if result != MetricExportResult.SUCCESS:
        log(f"the metrics could not be pushed to {url}")


def known_revisions() -> set[str]:
    """Return the revisions of the schema in this image's migrations."""
    sys.path.append(str(Path.cwd()))  # the image's working directory, if it is not installed
    spec = importlib.util.find_spec("open_webui")
    packages = list(spec.submodule_search_locations or []) if spec else []
    return {
        match[1]
        for package in packages
        for file in Path(package, "migrations/versions").glob("*.py")
        if (match := re.search(r"^revision\b.*?=\s*['\"](\w+)", file.read_text(), re.MULTILINE))
    }


def restore(folder: Path, data: Path, key: Path) -> None:
    """Verify the snapshot in `folder`, and move it to `data`, whose content is kept aside.

    The file `key` has the snapshot's secret key. `folder` is on the same file system as `data`.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    try:
        check(folder, manifest)
        if manifest["revision"] not in known_revisions():
            raise BackupError(
                f"the backup has schema {manifest['revision']}, which this image does not know:"
                f" it is of a newer image, {manifest['image']}"
            )
    except BackupError:
        # It takes space on the data's disk.
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if key.read_text() != os.environ.get("WEBUI_SECRET_KEY"):
        log("the secret key has changed: all users sign in again, and set up second factors again")
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
            reason = f"{error}; could not undo it: {worse}; the other files are in {aside}"
            raise HalfDoneError(reason) from worse
        raise
    shutil.rmtree(folder, ignore_errors=True)
    again = ""
    if any(entry.startswith(f"{INDEX} ") for entry in manifest.get("left_out", [])):
        again = (
            "; documents are found again after an admin has reindexed them on the chat page: Admin"
            " Panel, Settings, Documents, Reindex Knowledge and Memory Vectors"
        )
    # One line, because `make restore` prints the last one.
    log(f"restored: {summary(manifest)}; the replaced data is in {aside.name}{again}")


COMMANDS: dict[str, Callable[..., None]] = {
    "snapshot": snapshot,
    "verify": verify,
    "restore": restore,
}


def main(command: str, *paths: str) -> int:
    """Run a command and return its exit code: 1 if it changed nothing, 2 if data is incomplete."""
    try:
        COMMANDS[command](*(Path(path) for path in paths))
    except (BackupError, OSError, sqlite3.Error) as error:
        log(f"{command} failed: {error}")
        return 1
    except HalfDoneError as error:
        log(f"{command} failed, and the data is incomplete: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
