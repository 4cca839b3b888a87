"""The programs of the node and of the pods on it, built from Go modules."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from sandbox.build import FOLDER, TOOLS, Tool, build_tool, copy_files, download
from sandbox.cache import artefact

# Pinned by the chart, whose image has the same version.
ALERTMANAGER = "github.com/prometheus/alertmanager@v0.34.0"


def install_tools(names: Iterable[str], folder: Path = FOLDER) -> dict[str, Path]:
    """Build some of TOOLS unless they are cached; returns their links in `folder` by name.

    Raises SandboxError.
    """
    folder = folder.absolute()
    if "ollama" in names:
        copy_files("headers", folder)
    return {name: build_tool(TOOLS[name], folder) for name in names}


def install_all(without: Iterable[str] = (), folder: Path = FOLDER) -> dict[str, Path]:
    """Build the programs of a real node, `without` some; returns their links by name."""
    without = {"kwok", "promtool", *without}
    links = install_tools([name for name in TOOLS if name not in without], folder)
    return links if "alertmanager" in without else {**links, "alertmanager": alertmanager(folder)}


def alertmanager(folder: Path = FOLDER) -> Path:
    """Build Alertmanager from a copy of its module, which lacks the web page that it embeds."""
    folder = folder.absolute()

    def make(copy: Path) -> None:
        # The module cache is read-only.
        source = download(ALERTMANAGER, "alertmanager-module", folder, folder)
        shutil.copytree(source, copy, copy_function=shutil.copyfile)
        for directory in (copy, *copy.rglob("*/")):
            directory.chmod(0o755)
        page = copy / "ui" / "app" / "dist"
        (page / "assets").mkdir(parents=True)
        (page / "assets" / "none.txt").write_text("")
        (page / "index.html").write_text("<p>Alertmanager, built without its page.</p>\n")

    copy = artefact("alertmanager-module", make, (), ALERTMANAGER)
    return build_tool(Tool("alertmanager", copy, "./cmd/alertmanager"), folder)
