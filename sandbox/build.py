"""Builds the parts of a Kubernetes cluster, Pulumi's CLI and its provider from Go modules."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from sandbox import plugins
from sandbox.cache import artefact, link
from sandbox.toolchain import MODULES, find_go, pinned, require_compilers, run

FOLDER = Path(__file__).parent.parent / ".sandbox"
PULUMI = "github.com/pulumi/pulumi/pkg/v3"
PROVIDER = "github.com/pulumi/pulumi-kubernetes/provider/v4"
SDK = "github.com/pulumi/pulumi-kubernetes/sdk/v4"
KWOK = "sigs.k8s.io/kwok"
METALLB = "go.universe.tf/metallb"
OPERATOR = "github.com/prometheus-operator/prometheus-operator"
VERSION = "github.com/prometheus/common/version.Version"
"""The variable with the version in all programs of Prometheus' family."""
# Target, the folder whose go.mod pins the module, the module, files in it.
MANIFESTS = (
    ("crds/metallb", "metallb", METALLB, "config/crd/bases/*.yaml"),
    ("manifests/metallb", "metallb", METALLB, "config/manifests/metallb-native.yaml"),
    (
        "crds/prometheus-operator",
        "prometheus-operator",
        OPERATOR,
        "example/prometheus-operator-crd/*.yaml",
    ),
    ("stages/node-fast", "cluster", KWOK, "kustomize/stage/node/fast/*.yaml"),
    ("stages/node-heartbeat", "cluster", KWOK, "kustomize/stage/node/heartbeat/*.yaml"),
    ("stages/pod-fast", "cluster", KWOK, "kustomize/stage/pod/fast/*.yaml"),
)


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
    plugins: Mapping[str, Path]
    """The plugins by name; without `random` if it cannot be downloaded."""
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
    for tool in TOOLS:
        build_tool(tool, folder)
    for target, pinned_in, module, pattern in MANIFESTS:
        copy_files(folder / target, pinned_in, module, pattern, folder)
    pulumi = plugins.find_cli() or build_tool(CLI, folder)
    available = plugins.find_plugins(pulumi)
    if "kubernetes" not in available:
        available["kubernetes"] = build_provider(folder)
    return Tools(folder, pulumi, available, plugins.find_chart(folder))


def build_provider(folder: Path) -> Path:
    """Build the Kubernetes provider; returns its link in `folder/bin`."""
    embedded = folder / "provider"
    # Its Makefile copies these files beside its main.go.
    pattern = "cmd/pulumi-resource-kubernetes/*.json"
    copy_files(embedded, "engine", PROVIDER, pattern, folder)
    files = ("schema.json", "terraform-mapping.json")
    overlay = {str(KUBERNETES.module / name): str(embedded / name) for name in files}
    (folder / "provider-overlay.json").write_text(json.dumps({"Replace": overlay}))
    return build_tool(KUBERNETES, folder)


def build_tool(tool: Tool, folder: Path) -> Path:
    """Build one tool unless it is cached; returns its link in `folder/bin`."""

    def make(program: Path) -> None:
        env = dict(item.format(folder=folder).split("=", 1) for item in tool.environment)
        if env.get("CGO_ENABLED") == "1":
            require_compilers(tool.name)
        arguments = [word.format(folder=folder) for word in tool.arguments()]
        command: list[str | Path] = [find_go(folder), "build", "-o", program, *arguments]
        run(tool.name, command, folder / "logs" / f"build-{tool.name}.log", tool.module, env)

    sources = [tool.module / "go.mod", tool.module / "go.sum", *sorted(tool.module.glob("*.go"))]
    program = artefact(tool.name, make, sources, *tool.arguments(), *tool.environment)
    return link(program, folder / "bin" / tool.name)


def copy_files(target: Path, pinned_in: str, module: str, pattern: str, folder: Path) -> None:
    """Link the files of a pinned `module` that match `pattern` at `target`."""
    home = MODULES / pinned_in

    def make(copy: Path) -> None:
        # With the version, because without it Go downloads the module's whole graph.
        source = download(f"{module}@{pinned(pinned_in, module)}", target.name, folder, home)
        copy.mkdir()
        for file in source.glob(pattern):
            if file.name != "kustomization.yaml":
                shutil.copyfile(file, copy / file.name)

    sources = [home / "go.mod", home / "go.sum"]
    link(artefact(target.name, make, sources, module, pattern), target)


def download(module: str, name: str, folder: Path, cwd: Path) -> Path:
    """Return the folder in Go's own cache of a module, given as `path@version`."""
    log = folder / "logs" / f"build-{name}.log"
    run(name, [find_go(folder), "mod", "download", "-json", module], log, cwd)
    return Path(json.loads(log.read_text()[log.read_text().index("{") :])["Dir"])


KUBERNETES_VERSION = pinned("cluster", "k8s.io/kubernetes")
# Without them it calls itself v0.0.0-master, which charts that require a version refuse.
GIT = "k8s.io/component-base/version.git"
KUBE = (
    f"{GIT}Version={KUBERNETES_VERSION}",
    f"{GIT}Major={Version(KUBERNETES_VERSION).major}",
    f"{GIT}Minor={Version(KUBERNETES_VERSION).minor}",
)
# The operator runs the config reloader of its own version.
RELOADER = (f"{VERSION}={pinned('prometheus-operator', OPERATOR)[1:]}",)
TOOLS = [
    Tool("kube", MODULES / "cluster", ".", KUBE),
    Tool("kwok", MODULES / "cluster", f"{KWOK}/cmd/kwok"),
    Tool("metallb-controller", MODULES / "metallb", f"{METALLB}/controller"),
    Tool(
        "prometheus-operator", MODULES / "prometheus-operator", f"{OPERATOR}/cmd/operator", RELOADER
    ),
]
# Go collects no garbage of the compiler below this size, which saves a tenth of the time.
UNCOLLECTED = ("GOGC=off", "GOMEMLIMIT=2GiB")
CLI = Tool(
    "pulumi",
    MODULES / "engine",
    f"{PULUMI}/cmd/pulumi",
    (f"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={pinned('engine', PULUMI)}",),
    UNCOLLECTED,
)
KUBERNETES = Tool(
    "kubernetes-provider",
    MODULES / "engine",
    ".",
    # Its module is named after the day of a commit; its version is that of its SDK.
    (f"{PROVIDER}/pkg/version.Version={pinned('engine', f'replace {SDK} => {SDK}')[1:]}",),
    UNCOLLECTED,
    ("-overlay={folder}/provider-overlay.json",),
)
