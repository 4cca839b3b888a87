"""The cache of all checkouts of a user: each artefact is made once for the same inputs."""

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sandbox.processes import locked


def cache() -> Path:
    """Return the folder: `HOMELAB_CACHE`, or the user's `.cache/homelab`, also under sudo."""
    home = Path(f"~{os.environ.get('SUDO_USER', '')}").expanduser()
    return Path(os.environ.get("HOMELAB_CACHE") or home / ".cache" / "homelab").absolute()


def artefact(name: str, make: Callable[[Path], object], files: Iterable[Path], *words: str) -> Path:
    """Return the path of the artefact of these inputs; `make` creates it at a path if missing.

    It is complete, because it is made elsewhere, under a lock, and then renamed.
    """
    digest = hashlib.sha256("\0".join([platform.system(), platform.machine(), *words]).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    path = cache() / name / digest.hexdigest()[:16]
    if path.exists():
        return path
    # Its file stays, because a process that waits for the lock has it open.
    with locked(path.parent):
        work = path.with_name("partial")
        shutil.rmtree(work, ignore_errors=True)
        if not path.exists():
            # Named after this process, because the build of a killed one may go on for a while.
            partial = work / str(os.getpid()) / name
            partial.parent.mkdir(parents=True)
            make(partial)
            partial.rename(path)
    return path


def link(target: Path, path: Path) -> Path:
    """Replace what is at `path` by a link to `target`; returns `path`."""
    if not (path.is_symlink() and path.readlink() == target):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(target)
        partial.replace(path)
    return path
