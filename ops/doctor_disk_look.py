"""Says whether a disk is mounted and has its directories; run in a pod, by nothing but Python."""

import json
import stat
import sys
from pathlib import Path, PurePosixPath


def problems(
    parent: Path, disk: str, directories: list[str], backups: Path | None = None
) -> list[str]:
    """Tell what is wrong with `disk` and the directories, whose parent is mounted at `parent`.

    All are told by their path on the node, which has the disk's parent where the disk is;
    `backups` is where the directory for the backups is mounted, if there is one.
    """

    def seen(path: str) -> Path:
        return parent / PurePosixPath(path).relative_to(PurePosixPath(disk).parent)

    try:
        device = seen(disk).stat().st_dev
    except OSError as error:
        return [f"{disk}: {error.strerror}"]
    if device == parent.stat().st_dev:
        return [f"{disk} is not mounted: it is on the same file system as the folder above it"]
    found = []
    for path in directories:
        try:
            about = seen(path).stat()
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if not stat.S_ISDIR(about.st_mode):
            found.append(f"{path} is no directory")
        elif about.st_dev != device:
            found.append(f"{path} is not on the disk {disk}, but on another one")
    if backups and backups.stat().st_dev == device:
        found.append(f"the directory of the backups is on {disk} too: one broken disk takes both")
    return found


if __name__ == "__main__":
    told, mounted, beside, data_disk, *paths = sys.argv[1:]
    second = Path(beside) if beside else None
    Path(told).write_text(json.dumps(problems(Path(mounted), data_disk, paths, second)))
