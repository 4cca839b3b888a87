"""The alerts of the stack, as PrometheusRule specs from the files of this folder."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from components.observability.promql import any_of

OF_SERVERS = ("gpu", "ollama")
"""Files whose alerts are about a model server, which is named at the end of their description."""


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
    disks = sorted(set(disks))
    # The mount point of the backup's disk is its directory, or one above.
    directory = PurePosixPath(backup_path)
    backup = [str(path) for path in (directory, *directory.parents)][:-1]
    values = {
        "@disks@": any_of(disks),
        "@all_disks@": any_of([*disks, *backup]),
        "@backup@": any_of(backup),
        "@too_old@": str(2 * 3600 * (backup_hours or 0)),
        "@servers@": any_of(servers),
        "@gpu_servers@": any_of(gpu_servers),
    }
    disabled = set() if gpu_servers else {"gpu"}
    disabled |= {"backup"} if backup_hours is None else set()
    specs: dict[str, dict[str, Any]] = {
        file.stem: yaml.safe_load(file.read_text())
        for file in sorted(Path(__file__).parent.glob("*.yaml"))
        if file.stem not in disabled
    }
    names = [f'{{{{ if eq $labels.instance "{it}" }}}}{servers[it]}{{{{ end }}}}' for it in servers]
    server = f" Server: {{{{ $labels.instance }}}} on {''.join(names)}."
    for file, spec in specs.items():
        for rule in (rule for group in spec["groups"] for rule in group["rules"]):
            for placeholder, value in values.items():
                rule["expr"] = rule["expr"].replace(placeholder, value)
            if "alert" in rule:
                annotations = rule["annotations"]
                annotations["runbook_url"] = f"{runbook}#{rule['alert'].lower()}"
                annotations["description"] += server if file in OF_SERVERS else ""
                text = annotations["description"].replace("@disks@", ", ".join(disks))
                annotations["description"] = text
    return specs
