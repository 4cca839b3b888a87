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
    """PrometheusRule specs by name.

    They watch the mount points `disks`, the GPU where models run on it, and if there are any,
    backups every `backup_hours` in the folder `backup_path`; each alert has its section in the
    page `runbook`.
    """
    mounted = "|".join(sorted(set(disks)))
    # Where its disk is mounted is not known: there, or above.
    folders = [PurePosixPath(backup_path), *PurePosixPath(backup_path).parents]
    backup = "|".join(map(str, folders[:-1]))
    without = set() if gpu else {"gpu"}
    without |= {"backup"} if backup_hours is None else set()
    too_old = str(2 * 3600 * (backup_hours or 0))
    specs: dict[str, dict[str, Any]] = {
        file.stem: yaml.safe_load(
            file.read_text()
            .replace("@disks@", mounted)
            .replace("@all_disks@", "|".join(filter(None, [mounted, backup])))
            .replace("@backup@", backup)
            .replace("@too_old@", too_old)
        )
        for file in sorted(Path(__file__).parent.glob("*.yaml"))
        if file.stem not in without
    }
    for spec in specs.values():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"{runbook}#{rule['alert'].lower()}"
    return specs
