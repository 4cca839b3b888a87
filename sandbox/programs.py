"""Installs the programs that the pods of the house run, as plain programs of this machine."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from sandbox.build import FOLDER, VERSION, Tool, build_tool, copy_files
from sandbox.processes import SandboxError, locked
from sandbox.toolchain import MODULES, find_program, pinned, run

# renovate: datasource=pypi depName=open-webui
OPEN_WEBUI = "0.12.4"
# What it imports beyond its slim requirements before it indexes documents as the image does.
BEYOND_SLIM = ("azure-identity", "azure-storage-blob", "chromadb", "google-cloud-storage", "pydub")
# What Open WebUI asks for.
PYTHONS = ((3, 11), (3, 12))
OLLAMA = "github.com/ollama/ollama"
PROMETHEUS = "github.com/prometheus/prometheus"
KUBE_STATE_METRICS = "k8s.io/kube-state-metrics/v2"
RESTIC = "github.com/restic/restic"
NODE_EXPORTER = "github.com/prometheus/node_exporter"
# Headers that Ollama's repository has in folders named `vendor`, which no Go module can carry:
# where they go, the module, which in it.
HEADERS = (
    ("nlohmann", "github.com/nlohmann/json", "single_include/nlohmann/*.hpp"),
    ("stb", "github.com/gen2brain/raylib-go/raylib", "external/stb_image.h"),
    ("miniaudio", "github.com/gen2brain/raylib-go/raylib", "external/miniaudio.h"),
)
# The second flag keeps the folder's path out of the program.
CGO = ("CGO_ENABLED=1", "CGO_CPPFLAGS='-I{folder}/headers' '-ffile-prefix-map={folder}=.'")


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of all that the sandbox runs in place of containers."""

    ollama: Path
    """Ollama with its engine for the CPU."""
    prometheus: Path
    """Prometheus, without service discovery: it scrapes what files and its settings name."""
    promtool: Path
    """Checks and tests rules, and asks a Prometheus."""
    kube_state_metrics: Path
    """kube-state-metrics."""
    node_exporter: Path
    """node_exporter."""
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
    with locked(folder):
        return Programs(
            ollama=install_ollama(folder),
            prometheus=_install_prometheus("prometheus", folder),
            promtool=_install_prometheus("promtool", folder),
            kube_state_metrics=build_tool(
                exporter("kube-state-metrics", "kube-state-metrics", KUBE_STATE_METRICS), folder
            ),
            node_exporter=build_tool(
                exporter("node_exporter", "monitoring", NODE_EXPORTER), folder
            ),
            restic=install_restic(folder),
            python=_install_open_webui(folder),
        )


def promtool(folder: Path = FOLDER) -> Path:
    """Install only promtool into `folder`, and give its path; raise SandboxError if that fails."""
    folder = folder.absolute()
    with locked(folder):
        return _install_prometheus("promtool", folder)


def prometheus_version() -> str:
    """Give Prometheus' own version, as `3.16.0`; its module calls that v0.316.0."""
    module = Version(pinned("monitoring", PROMETHEUS))
    return f"{module.minor // 100}.{module.minor % 100}.{module.micro}"


def install_ollama(folder: Path) -> Path:
    """Build Ollama into `folder` unless this machine has it, and give its path."""
    version = pinned("ollama", OLLAMA).removeprefix("v")
    if found := find_program("ollama", version, "--version"):
        return found
    for name, module, pattern in HEADERS:
        copy_files(folder / "headers" / name, "ollama", module, pattern, folder)
    stamps = (f"{OLLAMA}/version.Version={version}",)
    return build_tool(Tool("ollama", MODULES / "ollama", OLLAMA, stamps, environment=CGO), folder)


def _install_prometheus(name: str, folder: Path) -> Path:
    version = prometheus_version()
    if found := find_program(name, version, "--version"):
        return found
    stamps = (f"{VERSION}={version}",)
    package = f"{PROMETHEUS}/cmd/{name}"
    # Service discovery would bring a module of each cloud.
    tool = Tool(name, MODULES / "monitoring", package, stamps, tags="remove_all_sd")
    return build_tool(tool, folder)


def install_restic(folder: Path) -> Path:
    """Build restic into `folder` unless this machine has it, and give its path."""
    if found := find_program("restic", pinned("restic", RESTIC).removeprefix("v"), "version"):
        return found
    return build_tool(Tool("restic", MODULES / "restic", f"{RESTIC}/cmd/restic"), folder)


def exporter(name: str, pinned_in: str, module: str) -> Tool:
    """Give the tool `name`, whose version is that of its module."""
    version = pinned(pinned_in, module).removeprefix("v")
    return Tool(name, MODULES / pinned_in, module, (f"{VERSION}={version}",))


def _install_open_webui(folder: Path) -> Path:
    environment = folder / "open-webui"
    python, stamp = environment / "bin" / "python", environment / ".key"
    key = f"{OPEN_WEBUI} with {BEYOND_SLIM} on {sys.version}"
    if python.exists() and stamp.exists() and stamp.read_text() == key:
        return python
    # It has its own path in its scripts, so it cannot be made elsewhere and moved: the stamp,
    # written last, says that it is whole.
    shutil.rmtree(environment, ignore_errors=True)
    log = folder / "logs" / "build-open-webui.log"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    run("environment", [sys.executable, "-m", "venv", environment], log, folder)
    run("open-webui", [*pip, "--no-deps", f"open-webui=={OPEN_WEBUI}"], log, folder)
    # The full requirements are four times as large, for what no test here uses.
    (slim,) = environment.glob("lib/python*/site-packages/requirements-slim.txt")
    (metadata,) = environment.glob("lib/python*/site-packages/open_webui-*.dist-info/METADATA")
    pins = re.findall(r"^Requires-Dist: ([\w.-]+)(?:\[.*\])?(==\S+)$", metadata.read_text(), re.M)
    constraints = environment / "constraints.txt"
    constraints.write_text("".join(f"{name}{version}\n" for name, version in pins))
    pip += ["--requirement", slim, "--constraint", constraints, *BEYOND_SLIM]
    run("its packages", pip, log, folder)
    stamp.write_text(key)
    return python
