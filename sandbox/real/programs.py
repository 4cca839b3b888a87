"""The programs of the node and of the pods on it, built from Go modules."""

import json
import shutil
from pathlib import Path

from sandbox.build import (
    FOLDER,
    MANIFESTS,
    METALLB,
    OPERATOR,
    VERSION,
    Tool,
    build_tool,
    copy_files,
)
from sandbox.processes import locked
from sandbox.programs import (
    KUBE_STATE_METRICS,
    NODE_EXPORTER,
    PROMETHEUS,
    exporter,
    install_ollama,
    install_restic,
    prometheus_version,
)
from sandbox.toolchain import MODULES, find_go, run

# Pinned by the chart, whose image has the same version.
ALERTMANAGER = "github.com/prometheus/alertmanager@v0.34.0"
METALLB_NATIVE = ("manifests", "metallb", METALLB, "config/manifests/metallb-native.yaml")
TOOLS = (
    exporter("kube-state-metrics", "kube-state-metrics", KUBE_STATE_METRICS),
    exporter("node_exporter", "monitoring", NODE_EXPORTER),
    Tool("pause", MODULES / "pause", "."),
    Tool("coredns", MODULES / "coredns", "."),
    Tool("metallb-speaker", MODULES / "metallb", f"{METALLB}/speaker"),
    Tool("network-policies", MODULES / "network-policies", "."),
    Tool(
        "prometheus-config-reloader",
        MODULES / "prometheus-operator",
        f"{OPERATOR}/cmd/prometheus-config-reloader",
    ),
    Tool(
        "prometheus-in-cluster",
        MODULES / "monitoring",
        f"{PROMETHEUS}/cmd/prometheus",
        (f"{VERSION}={prometheus_version()}",),
        # The operator's configuration asks the API server what to scrape.
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
)
BUILT = ("kube", "metallb-controller", "prometheus-operator")
"""What `make up` builds, too."""


def collect(folder: Path = FOLDER) -> dict[str, Path]:
    """Build into `folder` what is missing or changed; give the paths by name."""
    with locked(folder):
        own = {tool.name: build_tool(tool, folder) for tool in TOOLS}
        built = {name: folder / "bin" / name for name in BUILT}
        others = {
            "alertmanager": build_alertmanager(folder),
            "ollama": install_ollama(folder),
            "restic": install_restic(folder),
        }
        return own | built | others


def build_alertmanager(folder: Path) -> Path:
    """Build Alertmanager from a copy of its module, which lacks the page that it embeds."""
    copy = folder / "alertmanager"
    if not copy.exists():
        log = folder / "logs" / "build-alertmanager-module.log"
        run(
            "alertmanager", [find_go(folder), "mod", "download", "-json", ALERTMANAGER], log, folder
        )
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


def addons(folder: Path = FOLDER) -> list[Path]:
    """Give the files with MetalLB's own objects and the operator's definitions, in `folder`."""
    for target, pinned_in, module, pattern in (*MANIFESTS, METALLB_NATIVE):
        copy_files(folder / target, pinned_in, module, pattern, folder)
    return [
        folder / METALLB_NATIVE[0] / "metallb-native.yaml",
        *sorted((folder / "crds" / "prometheus-operator").glob("*.yaml")),
    ]
