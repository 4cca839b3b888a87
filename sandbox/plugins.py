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
from sandbox.cache import cache, link, made
from sandbox.toolchain import find_program

CHART = "kube-prometheus-stack"
CHARTS = "https://github.com/prometheus-community/helm-charts/releases/download"
PLUGINS = ("kubernetes", "random")
PATIENCE = 120.0
"""Seconds for one download; offline, the CLI gives up by itself after ten."""
TRUST = 24 * 3600.0
"""Seconds for which a download that failed is not tried again."""


def find_cli() -> Path | None:
    """Give a CLI that is as new as the SDK: the one on PATH, or one downloaded."""
    wanted = version("pulumi")
    if found := find_program("pulumi", wanted, "version"):
        return found

    def download(root: Path) -> None:
        _note_try("cli", wanted)
        PulumiCommand.install(root=str(root))

    # Whatever goes wrong, there is none then.
    with contextlib.suppress(Exception):
        return made("cli", download, (), wanted) / "bin" / "pulumi"
    return None


def find(pulumi: Path) -> dict[str, Path]:
    """Give the plugins of the SDKs, by name: their version or a newer one.

    One that is not on the machine the CLI downloads, if it can.
    """
    home = cache() / "pulumi-home"
    homes = (home, Path(os.environ.get("PULUMI_HOME", Path.home() / ".pulumi")))
    found = {}
    for name in PLUGINS:
        wanted = version(f"pulumi-{name}")
        if not (plugin := _installed(homes, name, wanted)):
            command = [str(pulumi), "plugin", "install", "resource", name, wanted]
            environment = {**os.environ, "PULUMI_HOME": str(home)}
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                _note_try(name, wanted)
                subprocess.run(
                    command, env=environment, capture_output=True, timeout=PATIENCE, check=False
                )
            plugin = _installed(homes, name, wanted)
        if plugin:
            found[name] = plugin
    return found


def find_chart(folder: Path) -> Path | None:
    """Give the published chart of kube-prometheus-stack: in HOMELAB_CHARTS, or downloaded.

    One that was downloaded has a link in `folder`.
    """
    name = f"{CHART}-{KUBE_PROMETHEUS_STACK}"
    if (given := Path(os.environ.get("HOMELAB_CHARTS", ""), f"{name}.tgz").absolute()).exists():
        return given

    def download(file: Path) -> None:
        _note_try(CHART, KUBE_PROMETHEUS_STACK)
        with urllib.request.urlopen(f"{CHARTS}/{name}/{name}.tgz", timeout=PATIENCE) as answer:
            file.write_bytes(answer.read())

    with contextlib.suppress(OSError):
        return link(made(CHART, download, (), name), folder / "charts" / f"{name}.tgz")
    return None


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


def _note_try(name: str, wanted: str) -> None:
    """Raise TimeoutError if this download has been tried within a day; note that it is now."""
    tried = cache() / f".asked-for-{name}-{wanted}"
    if tried.exists() and time.time() - tried.stat().st_mtime < TRUST:
        raise TimeoutError
    print(f"  {name} {wanted}: asking for the official one", flush=True)
    tried.parent.mkdir(parents=True, exist_ok=True)
    tried.touch()
