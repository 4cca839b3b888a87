"""Which provider plugins the engine gets: the official ones wherever they can be had."""

import json
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from sandbox.build import Tools

PLUGINS = ("kubernetes", "random")
PATIENCE = 120.0
"""Seconds for one download; offline, the CLI gives up by itself after ten."""
TRUST = 24 * 3600.0
"""Seconds for which a download that failed is not tried again."""


def have_official(tools: Tools, environment: Mapping[str, str]) -> bool:
    """Say whether the CLI has the plugins of this project's SDKs, downloading them if it can."""
    versions = {name: version(f"pulumi-{name}") for name in PLUGINS}
    missed = tools.folder / "bin" / ".plugins-missed.json"
    if all(_present(Path(environment["PULUMI_HOME"]), name, versions[name]) for name in PLUGINS):
        return True
    if missed.exists() and time.time() - missed.stat().st_mtime < TRUST:
        return False

    for name, wanted in versions.items():
        print(f"  provider plugin {name} {wanted}: asking for the official one", flush=True)
        command = [str(tools.pulumi), "plugin", "install", "resource", name, wanted]
        try:
            got = subprocess.run(
                command, env=dict(environment), capture_output=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            got = None
        if got is None or got.returncode != 0:
            print("  provider plugins: not to be had from here; stand-ins take their place")
            missed.write_text(json.dumps(versions))
            return False
    return True


def _present(home: Path, name: str, wanted: str) -> bool:
    folder = home / "plugins" / f"resource-{name}-v{wanted}"
    # The CLI keeps a lock beside the folder and a marker while it is unpacked.
    return folder.is_dir() and not folder.with_name(f"{folder.name}.partial").exists()
