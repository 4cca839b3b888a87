"""What all checkouts of a user share: each artefact is made once for all that goes into it."""

import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sandbox.processes import locked


def cache() -> Path:
    """Give the folder: `HOMELAB_CACHE`, or `.cache/homelab` of the user, also under sudo."""
    home = Path(f"~{os.environ.get('SUDO_USER', '')}").expanduser()
    return Path(os.environ.get("HOMELAB_CACHE") or home / ".cache" / "homelab").absolute()


def made(name: str, make: Callable[[Path], object], files: Iterable[Path], *words: str) -> Path:
    """Give the artefact `name` of these files and words; `make` makes it at a path if need be.

    What is there is whole: it is made elsewhere, under a lock, and then renamed.
    """
    digest = hashlib.sha256("\0".join([platform.system(), platform.machine(), *words]).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    path = cache() / name / digest.hexdigest()[:16]
    work = path.with_name(f".{path.name}")
    if path.exists():
        return path
    with locked(work):
        # Its name tells this process: a build whose launcher was killed may go on for a while.
        partial = work / str(os.getpid()) / name
        for rest in work.glob("[0-9]*"):
            shutil.rmtree(rest, ignore_errors=True)
        if not path.exists():
            partial.parent.mkdir()
            make(partial)
            partial.rename(path)
        # Whoever waited for it has done so by now.
        shutil.rmtree(work, ignore_errors=True)
    return path


def link(artefact: Path, at: Path) -> Path:
    """Have a link to `artefact` at a path, in place of what is there, and give it."""
    if not (at.is_symlink() and at.readlink() == artefact):
        if at.is_dir() and not at.is_symlink():
            shutil.rmtree(at)
        at.parent.mkdir(parents=True, exist_ok=True)
        partial = at.with_name(f".{at.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(artefact)
        partial.replace(at)
    return at
