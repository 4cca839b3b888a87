"""Pulumi's CLI, its plugins and the monitoring chart: those of the machine, else downloaded."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from config.versions import KUBE_PROMETHEUS_STACK
from sandbox.cache import artefact, cache, link
from sandbox.toolchain import ask_version

CHART = "kube-prometheus-stack"
CHARTS = "https://github.com/prometheus-community/helm-charts/releases/download"
PLUGINS = ("kubernetes", "random")
INSTALL = (
    "import sys; from pulumi.automation import PulumiCommand as P; P.install(root=sys.argv[1])"
)
TIMEOUT = 120.0
"""Seconds for a download; offline, the CLI gives up after ten."""
RETRY_AFTER = 24 * 3600.0
"""Seconds before a download that failed is tried again."""


def find_cli() -> Path | None:
    """Return a CLI that is as new as the SDK: from PATH, or downloaded."""
    wanted = version("pulumi")
    installed = shutil.which("pulumi")
    if installed and ask_version(installed, "version") >= Version(wanted):
        return Path(installed)

    def download(root: Path) -> None:
        _install("cli", wanted, [sys.executable, "-c", INSTALL, str(root)], dict(os.environ))

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return artefact("cli", download, (), wanted) / "bin" / "pulumi"
    return None


def find_plugins(pulumi: Path) -> dict[str, Path]:
    """Return the plugins by name, as new as their SDKs; the CLI downloads missing ones."""
    home = cache() / "pulumi-home"
    homes = (home, Path(os.environ.get("PULUMI_HOME", Path.home() / ".pulumi")))
    plugins = {}
    for name in PLUGINS:
        wanted = version(f"pulumi-{name}")
        if not (plugin := _installed(homes, name, wanted)):
            command = [str(pulumi), "plugin", "install", "resource", name, wanted]
            env = {**os.environ, "PULUMI_HOME": str(home)}
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                _install(name, wanted, command, env)
            plugin = _installed(homes, name, wanted)
        if plugin:
            plugins[name] = plugin
    return plugins


def find_chart(folder: Path) -> Path | None:
    """Return the published monitoring chart: from HOMELAB_CHARTS, or downloaded, with a link."""
    name = f"{CHART}-{KUBE_PROMETHEUS_STACK}"
    file = Path(os.environ.get("HOMELAB_CHARTS", ""), f"{name}.tgz").absolute()
    if file.exists():
        return file

    def download(file: Path) -> None:
        _note_attempt(CHART, KUBE_PROMETHEUS_STACK)
        with urllib.request.urlopen(f"{CHARTS}/{name}/{name}.tgz", timeout=TIMEOUT) as response:
            file.write_bytes(response.read())

    with contextlib.suppress(OSError):
        return link(artefact(CHART, download, (), name), folder / "charts" / f"{name}.tgz")
    return None


def _installed(homes: tuple[Path, ...], name: str, wanted: str) -> Path | None:
    """Return the program of the oldest installed plugin that is not older than `wanted`."""
    programs = {
        Version(match[1]): folder / f"pulumi-resource-{name}"
        for home in homes
        for folder in home.glob("plugins/*/")
        # The CLI has a marker beside the folder while it unpacks.
        if (match := re.fullmatch(rf"resource-{name}-v(\d+\.\d+\.\d+)", folder.name))
        and not folder.with_name(f"{folder.name}.partial").exists()
    }
    new_enough = [version for version in programs if version >= Version(wanted)]
    return programs[min(new_enough)] if new_enough else None


def _install(name: str, wanted: str, command: list[str], env: dict[str, str]) -> None:
    """Run a command that downloads; raises SubprocessError if it fails or takes too long."""
    _note_attempt(name, wanted)
    quiet = subprocess.DEVNULL
    subprocess.run(command, env=env, stdout=quiet, stderr=quiet, timeout=TIMEOUT, check=True)


def _note_attempt(name: str, wanted: str) -> None:
    """Record a download's attempt; raises TimeoutError if the last one is less than a day ago."""
    attempt = cache() / f".asked-for-{name}-{wanted}"
    if attempt.exists() and time.time() - attempt.stat().st_mtime < RETRY_AFTER:
        raise TimeoutError
    print(f"  {name} {wanted}: downloading the official one", flush=True)
    attempt.parent.mkdir(parents=True, exist_ok=True)
    attempt.touch()
