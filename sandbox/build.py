"""Builds the parts of a Kubernetes cluster, Pulumi's CLI and its provider from Go modules."""

import contextlib
import json
import os
import shutil
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from config.versions import KUBE_PROMETHEUS_STACK
from sandbox.cache import artefact, link
from sandbox.toolchain import MODULES, ask_version, find_go, pinned, run

FOLDER = Path(__file__).parent.parent / ".sandbox"
CLUSTER = ("kube", "kwok", "metallb-controller", "prometheus-operator")
"""Programs of the simulated cluster."""
CHART = "kube-prometheus-stack"
CHARTS = "https://github.com/prometheus-community/helm-charts/releases/download"
TABLE = yaml.safe_load(Path(__file__).with_name("programs.yaml").read_text())


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: the Go `package`, built in the folder `module` that pins it."""

    name: str
    module: Path
    package: str
    stamps: tuple[str, ...] = ()
    """Variables that the linker sets, as `variable=value`."""
    environment: tuple[str, ...] = ()
    """Environment of the build, as `VARIABLE=value`; `{folder}` is where it is built."""
    flags: tuple[str, ...] = ()
    """Further flags of `go build`, with the same `{folder}`."""

    def arguments(self) -> list[str]:
        """Return the arguments of `go build`, without the output."""
        link = " ".join(["-s -w", *(f"-X {stamp}" for stamp in self.stamps)])
        return ["-trimpath", "-buildvcs=false", f"-ldflags={link}", *self.flags, self.package]


@dataclass(frozen=True, slots=True)
class Tools:
    """The built parts; Go and its module cache are no longer needed."""

    folder: Path
    """Has the cluster's programs in `bin`."""
    pulumi: Path
    """The CLI."""
    provider: Path | None = None
    """The Kubernetes provider; None if the CLI is the machine's, which downloads its plugins."""
    chart: Path | None = None
    """The published chart of kube-prometheus-stack, if it can be downloaded."""

    def program(self, name: str) -> Path:
        """Return the path of the program `name`."""
        return self.folder / "bin" / name

    def crds(self) -> list[Path]:
        """Return the files with the definitions of MetalLB and the Prometheus Operator."""
        return sorted(self.folder.glob("crds/*/*.yaml"))

    def addons(self) -> list[Path]:
        """Return the files with MetalLB's own objects and the operator's definitions."""
        definitions = self.folder.glob("crds/prometheus-operator/*.yaml")
        return [self.folder / "manifests" / "metallb" / "metallb-native.yaml", *sorted(definitions)]

    def stages(self) -> list[Path]:
        """Return the files by which KWOK simulates nodes and pods."""
        return sorted(self.folder.glob("stages/*/*.yaml"))


def build(folder: Path = FOLDER) -> Tools:
    """Build missing parts and link all into `folder`; raises SandboxError."""
    folder = folder.absolute()
    for name in CLUSTER:
        build_tool(TOOLS[name], folder)
    for kind in ("crds", "manifests", "stages"):
        copy_files(kind, folder)
    if pulumi := find_cli():
        return Tools(folder, pulumi, chart=find_chart(folder))
    copy_files("provider", folder)
    files, provider = ("schema.json", "terraform-mapping.json"), ENGINE["kubernetes-provider"]
    overlay = {str(provider.module / name): str(folder / "provider" / name) for name in files}
    (folder / "provider-overlay.json").write_text(json.dumps({"Replace": overlay}))
    pulumi, plugin = build_tool(ENGINE["pulumi"], folder), build_tool(provider, folder)
    return Tools(folder, pulumi, plugin, find_chart(folder))


def find_cli() -> Path | None:
    """Return the CLI on PATH, if it is as new as the SDK."""
    installed = shutil.which("pulumi")
    if installed and ask_version(installed, "version") >= Version(version("pulumi")):
        return Path(installed)
    return None


def find_chart(folder: Path) -> Path | None:
    """Return the published monitoring chart: from HOMELAB_CHARTS, or downloaded, with a link."""
    name = f"{CHART}-{KUBE_PROMETHEUS_STACK}"
    file = Path(os.environ.get("HOMELAB_CHARTS", ""), f"{name}.tgz").absolute()
    if file.exists():
        return file

    def download(file: Path) -> None:
        with urllib.request.urlopen(f"{CHARTS}/{name}/{name}.tgz", timeout=10) as response:
            file.write_bytes(response.read())

    with contextlib.suppress(OSError):
        return link(artefact(CHART, download, (), name), folder / "charts" / f"{name}.tgz")
    return None


def build_tool(tool: Tool, folder: Path) -> Path:
    """Build one tool unless it is cached; returns its link in `folder/bin`."""

    def make(program: Path) -> None:
        env = dict(item.format(folder=folder).split("=", 1) for item in tool.environment)
        arguments = [word.format(folder=folder) for word in tool.arguments()]
        command: list[str | Path] = [find_go(folder), "build", "-o", program, *arguments]
        run(tool.name, command, folder / "logs" / f"build-{tool.name}.log", tool.module, env)

    sources = [tool.module / "go.mod", tool.module / "go.sum", *sorted(tool.module.glob("*.go"))]
    program = artefact(tool.name, make, sources, *tool.arguments(), *tool.environment)
    return link(program, folder / "bin" / tool.name)


def copy_files(kind: str, folder: Path) -> None:
    """Link the files of TABLE at `kind`, or below it, in `folder`."""
    for place, home, module, pattern in TABLE["files"]:
        if place.partition("/")[0] == kind:
            name = Path(place).name
            sources = [MODULES / home / file for file in ("go.mod", "go.sum")]
            copy = partial(_copy, name, home, module, pattern, folder)
            link(artefact(name, copy, sources, module, pattern), folder / place)


def _copy(name: str, home: str, module: str, pattern: str, folder: Path, copy: Path) -> None:
    # With the version, because without it Go downloads the module's whole graph.
    source = download(f"{module}@{pinned(home, module)}", name, folder, MODULES / home)
    copy.mkdir()
    for file in source.glob(pattern):
        if file.name != "kustomization.yaml":
            shutil.copyfile(file, copy / file.name)


def download(module: str, name: str, folder: Path, cwd: Path) -> Path:
    """Return the folder in Go's own cache of a module, given as `path@version`."""
    log = folder / "logs" / f"build-{name}.log"
    run(name, [find_go(folder), "mod", "download", "-json", module], log, cwd)
    return Path(json.loads(log.read_text()[log.read_text().index("{") :])["Dir"])


def prometheus_version() -> str:
    """Return Prometheus' own version, as `3.16.0`; its module calls that v0.316.0."""
    module = Version(pinned("monitoring", "github.com/prometheus/prometheus"))
    return f"{module.minor // 100}.{module.minor % 100}.{module.micro}"


def _tool(name: str, row: Mapping[str, Any]) -> Tool:
    """Return a program of TABLE."""
    version = Version(pinned(row["in"], row["pin"])) if "pin" in row else None
    values = {"version": version, "prometheus": prometheus_version()}
    stamps = [f"{key}={value.format(**values)}" for key, value in row.get("stamps", {}).items()]
    further = (tuple(row.get(key, ())) for key in ("environment", "flags"))
    return Tool(name, MODULES / row["in"], row.get("package", "."), tuple(stamps), *further)


TOOLS = {name: _tool(name, row) for name, row in TABLE["programs"].items()}
ENGINE = {name: _tool(name, row) for name, row in TABLE["engine"].items()}
