"""The programs of the node and of the pods on it, built from Go modules; Open WebUI from PyPI."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.version import Version

from sandbox import build
from sandbox.build import (
    FOLDER,
    METALLB,
    OPERATOR,
    VERSION,
    Tool,
    build_tool,
    copy_files,
    download,
)
from sandbox.cache import made
from sandbox.processes import SandboxError
from sandbox.toolchain import MODULES, ask_version, pinned, run

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


def install_tools(names: Iterable[str], folder: Path = FOLDER) -> dict[str, Path]:
    """Build some of TOOLS, where needed, and give their links in `folder` by name.

    Raises SandboxError if that fails.
    """
    folder = folder.absolute()
    for name, module, pattern in HEADERS if "ollama" in names else ():
        copy_files(folder / "headers" / name, "ollama", module, pattern, folder)
    return {name: build_tool(TOOLS[name], folder) for name in names}


def install_all(folder: Path = FOLDER) -> dict[str, Path]:
    """Build all that runs on a real node, but Open WebUI; give the links by name."""
    built = install_tools([name for name in TOOLS if name not in ("kwok", "promtool")], folder)
    return {**built, "alertmanager": alertmanager(folder)}


def alertmanager(folder: Path = FOLDER) -> Path:
    """Build Alertmanager from a copy of its module, which lacks the page that it embeds."""
    folder = folder.absolute()

    def make(copy: Path) -> None:
        # The module cache is read-only.
        found = download(ALERTMANAGER, "alertmanager-module", folder, folder)
        shutil.copytree(found, copy, copy_function=shutil.copyfile)
        for directory in (copy, *copy.rglob("*/")):
            directory.chmod(0o755)
        page = copy / "ui" / "app" / "dist"
        (page / "assets").mkdir(parents=True)
        (page / "assets" / "none.txt").write_text("")
        (page / "index.html").write_text("<p>Alertmanager, built without its page.</p>\n")

    copy = made("alertmanager-module", make, (), ALERTMANAGER)
    return build_tool(Tool("alertmanager", copy, "./cmd/alertmanager"), folder)


def find_python() -> tuple[Path, Version]:
    """Give a Python for Open WebUI, and its version; raises SandboxError if there is none."""
    question = "import ensurepip, platform; print(platform.python_version())"
    for name in (sys.executable, *("python{}.{}".format(*version) for version in PYTHONS)):
        found = shutil.which(name)
        version = ask_version(found, "-c", question) if found else Version("0")
        if found and version.release[:2] in PYTHONS:
            # Not one in the environment of some checkout.
            return Path(found).resolve(), version
    ours = "{}.{}".format(*sys.version_info)
    raise SandboxError(f"Python: is {ours}; Open WebUI {OPEN_WEBUI} needs 3.11 or 3.12")


def open_webui(folder: Path = FOLDER) -> Path:
    """Install Open WebUI, if it is not there; give the Python of its environment.

    Raises SandboxError, also if there is no Python for it. Its scripts name the folder that they
    were installed in: run them by that Python.
    """
    python, version = find_python()
    folder = folder.absolute()
    packages = [f"open-webui=={OPEN_WEBUI}", *BEYOND_SLIM]

    def make(environment: Path) -> None:
        log = folder / "logs" / "build-open-webui.log"
        command: list[str | Path] = ["sh", "-euc", INSTALL, "sh", python, environment, *packages]
        run("open-webui", command, log, folder)

    inputs = (INSTALL, *packages, str(python), str(version))
    return made("open-webui", make, (), *inputs) / "bin" / "python"
