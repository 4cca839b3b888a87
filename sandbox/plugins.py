"""Pulumi's CLI, its plugins and the chart, where they are on the machine or can be downloaded."""

import contextlib
import os
import subprocess
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version
from pulumi.automation import PulumiCommand

from config.versions import KUBE_PROMETHEUS_STACK
from sandbox.toolchain import find_program

CHART = "kube-prometheus-stack"
CHARTS = "https://github.com/prometheus-community/helm-charts/releases/download"
PLUGINS = ("kubernetes", "random")
PATIENCE = 120.0
"""Seconds for one download; offline, the CLI gives up by itself after ten."""
TRUST = 24 * 3600.0
"""Seconds for which a download that failed is not tried again."""


def find_cli(folder: Path) -> Path | None:
    """Give a CLI that is as new as the SDK: the one on PATH, or one downloaded into `folder`."""
    wanted = version("pulumi")
    if found := find_program("pulumi", wanted, "version"):
        return found
    program = folder / "cli" / wanted / "bin" / "pulumi"
    if not program.exists() and _is_worth_a_try(folder, "cli", wanted):
        # Whatever goes wrong, there is none then.
        with contextlib.suppress(Exception):
            PulumiCommand.install(root=str(program.parent.parent))
    return program if program.exists() else None


def find(folder: Path, pulumi: Path) -> dict[str, Path]:
    """Give the plugins of the SDKs, by name: their version or a newer one.

    One that is not on the machine the CLI downloads into `folder`, if it can.
    """
    home = folder / "pulumi-home"
    homes = (home, Path(os.environ.get("PULUMI_HOME", Path.home() / ".pulumi")))
    found = {}
    for name in PLUGINS:
        wanted = version(f"pulumi-{name}")
        plugin = _installed(homes, name, wanted)
        if not plugin and _is_worth_a_try(folder, name, wanted):
            command = [str(pulumi), "plugin", "install", "resource", name, wanted]
            environment = {**os.environ, "PULUMI_HOME": str(home)}
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    command, env=environment, capture_output=True, timeout=PATIENCE, check=False
                )
            plugin = _installed(homes, name, wanted)
        if plugin:
            found[name] = plugin
    return found


def find_chart(folder: Path) -> Path | None:
    """Give the published chart of kube-prometheus-stack: in HOMELAB_CHARTS, or downloaded."""
    name = f"{CHART}-{KUBE_PROMETHEUS_STACK}"
    if (given := Path(os.environ.get("HOMELAB_CHARTS", ""), f"{name}.tgz").absolute()).exists():
        return given
    file = folder / "charts" / f"{name}.tgz"
    if not file.exists() and _is_worth_a_try(folder, CHART, KUBE_PROMETHEUS_STACK):
        file.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            url = f"{CHARTS}/{name}/{name}.tgz"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                partial = file.with_suffix(".partial")
                partial.write_bytes(answer.read())
                partial.replace(file)
    return file if file.exists() else None


def _installed(homes: tuple[Path, ...], name: str, wanted: str) -> Path | None:
    """Give the program of the oldest plugin there is that is not older than `wanted`."""
    there = {
        Version(folder.name.partition("-v")[2]): folder / f"pulumi-resource-{name}"
        for home in homes
        for folder in home.glob(f"plugins/resource-{name}-v*")
        # The CLI keeps a lock beside the folder, and a marker while it is unpacked.
        if folder.is_dir() and not folder.with_name(f"{folder.name}.partial").exists()
    }
    new_enough = [number for number in there if number >= Version(wanted)]
    return there[min(new_enough)] if new_enough else None


def _is_worth_a_try(folder: Path, name: str, wanted: str) -> bool:
    """Say whether this download has not been tried within a day, and note that it is now."""
    tried = folder / f".asked-for-{name}-{wanted}"
    if tried.exists() and time.time() - tried.stat().st_mtime < TRUST:
        return False
    print(f"  {name} {wanted}: asking for the official one", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    tried.touch()
    return True
