"""Says whether a disk is mounted and has its directories; run in a pod, by nothing but Python."""

import json
import stat
import sys
from pathlib import Path, PurePosixPath


def problems(parent: Path, disk: str, directories: list[str]) -> list[str]:
    """Tell what is wrong with `disk` and the directories, whose parent is mounted at `parent`.

    All are told by their path on the node, which has the disk's parent where the disk is.
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
    return found


if __name__ == "__main__":
    told, mounted, *paths = sys.argv[1:]
    Path(told).write_text(json.dumps(problems(Path(mounted), paths[0], paths[1:])))
