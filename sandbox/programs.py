"""The programs of the node and of the pods on it, built from Go modules; Open WebUI from PyPI."""

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from sandbox import build
from sandbox.build import FOLDER, METALLB, OPERATOR, VERSION, Tool, build_tool, copy_files
from sandbox.processes import SandboxError, locked
from sandbox.toolchain import MODULES, find_go, pinned, run

# renovate: datasource=pypi depName=open-webui
OPEN_WEBUI = "0.12.4"
# What it imports beyond its slim requirements before it indexes documents as the image does.
BEYOND_SLIM = ("azure-identity", "azure-storage-blob", "chromadb", "google-cloud-storage", "pydub")
# What Open WebUI asks for.
PYTHONS = ((3, 11), (3, 12))
# $1 a Python, $2 the environment to make, $3 Open WebUI, then other packages.
# The full requirements are four times as large, for what no test here uses.
INSTALL = r"""
python=$1 environment=$2 page=$3; shift 3
"$python" -m venv "$environment"
pip() { "$environment/bin/python" -m pip install --disable-pip-version-check "$@"; }
pip --no-deps "$page"
sed -nE 's/^Requires-Dist: ([A-Za-z0-9_.-]+)(\[.*\])?(==[^ ]+)$/\1\3/p' \
  "$environment"/lib/python3*/site-packages/open_webui-*/METADATA >"$environment/constraints.txt"
pip --requirement "$environment"/lib/python3*/site-packages/requirements-slim.txt \
  --constraint "$environment/constraints.txt" "$@"
"""
OLLAMA = "github.com/ollama/ollama"
PROMETHEUS = "github.com/prometheus/prometheus"
KUBE_STATE_METRICS = "k8s.io/kube-state-metrics/v2"
RESTIC = "github.com/restic/restic"
NODE_EXPORTER = "github.com/prometheus/node_exporter"
# Pinned by the chart, whose image has the same version.
ALERTMANAGER = "github.com/prometheus/alertmanager@v0.34.0"
# Headers that Ollama's repository has in folders named `vendor`, which no Go module can carry:
# where they go, the module, which in it.
HEADERS = (
    ("nlohmann", "github.com/nlohmann/json", "single_include/nlohmann/*.hpp"),
    ("stb", "github.com/gen2brain/raylib-go/raylib", "external/stb_image.h"),
    ("miniaudio", "github.com/gen2brain/raylib-go/raylib", "external/miniaudio.h"),
)
# The second flag keeps the folder's path out of the program.
CGO = ("CGO_ENABLED=1", "CGO_CPPFLAGS='-I{folder}/headers' '-ffile-prefix-map={folder}=.'")


def prometheus_version() -> str:
    """Give Prometheus' own version, as `3.16.0`; its module calls that v0.316.0."""
    module = Version(pinned("monitoring", PROMETHEUS))
    return f"{module.minor // 100}.{module.minor % 100}.{module.micro}"


def _list_tools() -> list[Tool]:
    ollama = f"{OLLAMA}/version.Version={pinned('ollama', OLLAMA)[1:]}"
    prometheus = f"{VERSION}={prometheus_version()}"
    # Of all that it can discover, pods: each cloud would bring a module of its own.
    found = "remove_all_sd,enable_kubernetes_sd"
    state = f"{VERSION}={pinned('kube-state-metrics', KUBE_STATE_METRICS)[1:]}"
    node = f"{VERSION}={pinned('monitoring', NODE_EXPORTER)[1:]}"
    return [
        Tool("ollama", MODULES / "ollama", OLLAMA, (ollama,), environment=CGO),
        Tool(
            "prometheus",
            MODULES / "monitoring",
            f"{PROMETHEUS}/cmd/prometheus",
            (prometheus,),
            found,
        ),
        Tool(
            "promtool", MODULES / "monitoring", f"{PROMETHEUS}/cmd/promtool", (prometheus,), found
        ),
        Tool("restic", MODULES / "restic", f"{RESTIC}/cmd/restic"),
        Tool("pause", MODULES / "pause", "."),
        Tool("coredns", MODULES / "coredns", "."),
        Tool("metallb-speaker", MODULES / "metallb", f"{METALLB}/speaker"),
        Tool("network-policies", MODULES / "network-policies", "."),
        Tool(
            "prometheus-config-reloader",
            MODULES / "prometheus-operator",
            f"{OPERATOR}/cmd/prometheus-config-reloader",
        ),
        Tool("kube-state-metrics", MODULES / "kube-state-metrics", KUBE_STATE_METRICS, (state,)),
        Tool("node_exporter", MODULES / "monitoring", NODE_EXPORTER, (node,)),
    ]


TOOLS = {tool.name: tool for tool in [*build.TOOLS, *_list_tools()]}


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of what the tests of the pods' programs run as plain processes."""

    ollama: Path
    """Ollama with its engine for the CPU."""
    prometheus: Path
    """Prometheus, which discovers in Kubernetes only."""
    restic: Path
    """restic, which keeps the backups."""
    python: Path
    """The Python of an environment with Open WebUI (`open-webui` is beside it) and its packages."""


def install(folder: Path = FOLDER) -> Programs:
    """Install into `folder` what is missing or changed; raise SandboxError if that fails."""
    folder = folder.absolute()
    if sys.version_info[:2] not in PYTHONS:
        ours = "{}.{}".format(*sys.version_info)
        raise SandboxError(f"Python: is {ours}; Open WebUI {OPEN_WEBUI} needs 3.11 or 3.12")
    built = install_tools(("ollama", "prometheus", "restic"), folder)
    with locked(folder):
        return Programs(**built, python=_install_open_webui(folder))


def install_tools(names: Iterable[str], folder: Path = FOLDER) -> dict[str, Path]:
    """Build some of TOOLS into `folder`, where needed, and give their paths by name."""
    folder = folder.absolute()
    with locked(folder):
        for name, module, pattern in HEADERS if "ollama" in names else ():
            copy_files(folder / "headers" / name, "ollama", module, pattern, folder)
        return {name: build_tool(TOOLS[name], folder) for name in names}


def install_all(folder: Path = FOLDER) -> dict[str, Path]:
    """Build all that runs on a real node, but Open WebUI; give the paths by name."""
    built = install_tools([name for name in TOOLS if name not in ("kwok", "promtool")], folder)
    with locked(folder):
        return {**built, "alertmanager": _build_alertmanager(folder.absolute())}


def alertmanager(folder: Path = FOLDER) -> Path:
    """Build only Alertmanager into `folder`, and give its path."""
    folder = folder.absolute()
    with locked(folder):
        return _build_alertmanager(folder)


def _build_alertmanager(folder: Path) -> Path:
    """Build Alertmanager from a copy of its module, which lacks the page that it embeds."""
    copy = folder / "alertmanager"
    if not copy.exists():
        log = folder / "logs" / "build-alertmanager-module.log"
        download: list[str | Path] = [find_go(folder), "mod", "download", "-json", ALERTMANAGER]
        run("alertmanager", download, log, folder)
        found = json.loads(log.read_text()[log.read_text().index("{") :])
        partial = folder / "alertmanager.partial"
        shutil.rmtree(partial, ignore_errors=True)
        # The module cache is read-only.
        shutil.copytree(found["Dir"], partial, copy_function=shutil.copyfile)
        for directory in (partial, *partial.rglob("*/")):
            directory.chmod(0o755)
        page = partial / "ui" / "app" / "dist"
        (page / "assets").mkdir(parents=True)
        (page / "assets" / "none.txt").write_text("")
        (page / "index.html").write_text("<p>Alertmanager, built without its page.</p>\n")
        partial.rename(copy)
    return build_tool(Tool("alertmanager", copy, "./cmd/alertmanager"), folder)


def _install_open_webui(folder: Path) -> Path:
    environment = folder / "open-webui"
    python, stamp = environment / "bin" / "python", environment / ".key"
    key = f"{OPEN_WEBUI} with {BEYOND_SLIM} on {sys.version}"
    if python.exists() and stamp.exists() and stamp.read_text() == key:
        return python
    # It has its own path in its scripts, so it cannot be made elsewhere and moved: the stamp,
    # written last, says that it is whole.
    shutil.rmtree(environment, ignore_errors=True)
    packages = [f"open-webui=={OPEN_WEBUI}", *BEYOND_SLIM]
    command: list[str | Path] = ["sh", "-euc", INSTALL, "sh", sys.executable, environment]
    run("open-webui", [*command, *packages], folder / "logs" / "build-open-webui.log", folder)
    stamp.write_text(key)
    return python
