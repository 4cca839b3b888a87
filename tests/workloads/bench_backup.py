"""How fast 1 GB of chats and files is backed up and restored, by the pods' own commands."""

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from backup_box import Box, before, cron

from sandbox.programs import install

CHATS, UPLOADS = 300_000_000, 700_000_000
"""Bytes of either; 1 GB is 10^9."""


def fill(data: Path, revision: str) -> None:
    """Write chats of hex digits, which pack to a half, and uploads that cannot be packed."""
    (data / "uploads").mkdir()
    for number in range(UPLOADS // 10_000_000):
        (data / "uploads" / str(number)).write_bytes(os.urandom(10_000_000))
    with closing(sqlite3.connect(data / "webui.db")) as base:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE alembic_version (version_num)")
        base.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        base.execute("CREATE TABLE chat (id INTEGER PRIMARY KEY, chat)")
        texts = ((os.urandom(10_000).hex(),) for _ in range(CHATS // 20_000))
        base.executemany("INSERT INTO chat (chat) VALUES (?)", texts)
        base.commit()


def measured() -> Iterator[tuple[str, float]]:
    """Yield what was done and its seconds: a first backup, one without changes, a restore."""
    programs = install()
    with tempfile.TemporaryDirectory() as folder:
        box = Box(Path(folder, "box"), programs)
        (versions,) = programs.python.parent.parent.glob(
            "lib/python*/site-packages/open_webui/migrations/versions"
        )
        # As the first up does, when there is nothing yet.
        code, said = box.run(before(box.lab))
        assert code == 0, said
        # Any that this Open WebUI knows.
        fill(box.mounts["data"], min(versions.glob("*_*.py")).name.partition("_")[0])
        scheduled = cron(box.lab, "open-webui-backup-schedule")
        for what, pod in (
            ("back up and verify 1 GB", scheduled),
            ("the same, unchanged", scheduled),
            ("before another image, unchanged", before(box.lab)),
            ("restore 1 GB", cron(box.lab, "open-webui-backup-restore")),
        ):
            began = time.perf_counter()
            code, said = box.run(pod)
            took = time.perf_counter() - began
            if code:
                raise RuntimeError(said)
            yield what, took
