"""The alerts of the stack, as PrometheusRule specs from the files of this folder."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


def alerts(
    disks: Iterable[str],
    runbook: str,
    *,
    gpu: bool = False,
    backup_hours: int | None = None,
    backup_path: str = "/",
) -> dict[str, dict[str, Any]]:
    """Return PrometheusRule specs by name.

    `disks` are mount points, `backup_hours` is the interval of backups in the directory
    `backup_path`, and `runbook` is the URL of a page with a section for each alert.
    """
    mount_points = "|".join(sorted(set(disks)))
    # The mount point of the backup's disk is its directory, or one above.
    folders = [PurePosixPath(backup_path), *PurePosixPath(backup_path).parents]
    backup = "|".join(map(str, folders[:-1]))
    disabled = set() if gpu else {"gpu"}
    disabled |= {"backup"} if backup_hours is None else set()
    max_age = str(2 * 3600 * (backup_hours or 0))
    specs: dict[str, dict[str, Any]] = {
        file.stem: yaml.safe_load(
            file.read_text()
            .replace("@disks@", mount_points)
            .replace("@all_disks@", "|".join(filter(None, [mount_points, backup])))
            .replace("@backup@", backup)
            .replace("@too_old@", max_age)
        )
        for file in sorted(Path(__file__).parent.glob("*.yaml"))
        if file.stem not in disabled
    }
    for spec in specs.values():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"{runbook}#{rule['alert'].lower()}"
    return specs
