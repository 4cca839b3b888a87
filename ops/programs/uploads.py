"""Point uploads that an Open WebUI kept in another folder to where they are now.

Runs in the page's pod, beside the page:
kubectl -n ollama-stack exec -i deployment/open-webui -- python3 - <ops/programs/uploads.py
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

data = Path(os.environ["DATA_DIR"])
with closing(sqlite3.connect(data / "webui.db", timeout=60)) as base, base:
    # Open WebUI keeps the whole path of each file.
    rows = base.execute("SELECT id, path FROM file WHERE path <> ''").fetchall()
    moved = [
        (str(here), identity)
        for identity, path in rows
        if not Path(path).exists() and (here := data / "uploads" / Path(path).name).exists()
    ]
    base.executemany("UPDATE file SET path = ? WHERE id = ?", moved)
print(f"uploads: corrected {len(moved)} of {len(rows)} paths")
