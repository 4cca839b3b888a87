"""The alerts of the stack, as PrometheusRule specs from the files of this folder."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml


def alerts(
    disks: Iterable[str],
    runbook: str,
    servers: Mapping[str, str],
    *,
    gpu_servers: Collection[str] = (),
    backup_hours: int | None = None,
    backup_path: str = "/",
) -> dict[str, dict[str, Any]]:
    """Return PrometheusRule specs by name.

    `disks` are mount points, `servers` the nodes of the model servers by their name, `gpu_servers`
    the servers with models on a GPU, `backup_hours` is the interval of backups in the directory
    `backup_path`, and `runbook` is the URL of a page with a section for each alert.
    """
    mount_points = "|".join(sorted(set(disks)))
    # The mount point of the backup's disk is its directory, or one above.
    folders = [PurePosixPath(backup_path), *PurePosixPath(backup_path).parents]
    backup = "|".join(map(str, folders[:-1]))
    disabled = set() if gpu_servers else {"gpu"}
    disabled |= {"backup"} if backup_hours is None else set()
    max_age = str(2 * 3600 * (backup_hours or 0))
    specs: dict[str, dict[str, Any]] = {
        file.stem: yaml.safe_load(
            file.read_text()
            .replace("@disks@", mount_points)
            .replace("@all_disks@", "|".join(filter(None, [mount_points, backup])))
            .replace("@backup@", backup)
            .replace("@too_old@", max_age)
            .replace("@servers@", "|".join(servers))
            .replace("@gpu_servers@", "|".join(gpu_servers))
        )
        for file in sorted(Path(__file__).parent.glob("*.yaml"))
        if file.stem not in disabled
    }
    names = [f'{{{{ if eq $labels.instance "{it}" }}}}{servers[it]}{{{{ end }}}}' for it in servers]
    server = f" Server: {{{{ $labels.instance }}}} on {''.join(names)}."
    for file, spec in specs.items():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"{runbook}#{rule['alert'].lower()}"
                rule["annotations"]["description"] += server if file in ("gpu", "ollama") else ""
    return specs
