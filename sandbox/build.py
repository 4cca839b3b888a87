"""Builds the parts of a Kubernetes cluster, Pulumi's CLI and its provider from Go modules."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from sandbox import plugins
from sandbox.cache import link, made
from sandbox.toolchain import MODULES, find_compiler, find_go, pinned, run

FOLDER = Path(__file__).parent.parent / ".sandbox"
PULUMI = "github.com/pulumi/pulumi/pkg/v3"
PROVIDER = "github.com/pulumi/pulumi-kubernetes/provider/v4"
SDK = "github.com/pulumi/pulumi-kubernetes/sdk/v4"
KWOK = "sigs.k8s.io/kwok"
METALLB = "go.universe.tf/metallb"
OPERATOR = "github.com/prometheus-operator/prometheus-operator"
# Where all of Prometheus' family keep their version.
VERSION = "github.com/prometheus/common/version.Version"
# Where the manifests go, the folder whose go.mod pins their module, the module, which in it.
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
    """What the linker sets, as `variable=value`."""
    tags: str = ""
    """Go's build tags."""
    environment: tuple[str, ...] = ()
    """What Go is told besides, as `VARIABLE=value`; `{folder}` is where it is built."""
    flags: tuple[str, ...] = ()
    """Further flags of `go build`, with the same `{folder}`."""

    def arguments(self) -> list[str]:
        """Give what follows `go build`, less the output."""
        link = " ".join(["-s -w", *(f"-X {stamp}" for stamp in self.stamps)])
        tags = [f"-tags={self.tags}"] if self.tags else []
        always = ("-trimpath", "-buildvcs=false", f"-ldflags={link}")
        return [*always, *tags, *self.flags, self.package]


@dataclass(frozen=True, slots=True)
class Tools:
    """All that a cluster starts from; neither Go nor its module cache is needed any more."""

    folder: Path
    """Holds in `bin` what runs as a cluster, the program `kube` first."""
    pulumi: Path
    """The CLI."""
    plugins: Mapping[str, Path]
    """Its plugins by name; without `random` where that cannot be had."""
    chart: Path | None = None
    """The published chart of kube-prometheus-stack, where it can be had."""

    def program(self, name: str) -> Path:
        """Give the path of the built program `name`."""
        return self.folder / "bin" / name

    def crds(self) -> list[Path]:
        """Give the definitions of MetalLB and the Prometheus Operator, as `group_plural.yaml`."""
        return sorted(self.folder.glob("crds/*/*.yaml"))

    def addons(self) -> list[Path]:
        """Give the files with MetalLB's own objects and the operator's definitions."""
        kinds = self.folder.glob("crds/prometheus-operator/*.yaml")
        return [self.folder / "manifests" / "metallb" / "metallb-native.yaml", *sorted(kinds)]

    def stages(self) -> list[Path]:
        """Give the files that tell KWOK how nodes and pods behave."""
        return sorted(self.folder.glob("stages/*/*.yaml"))


def build(folder: Path = FOLDER) -> Tools:
    """Build what no checkout has, link it into `folder`; raise SandboxError if that fails."""
    folder = folder.absolute()
    for tool in TOOLS:
        build_tool(tool, folder)
    for target, pinned_in, module, pattern in MANIFESTS:
        copy_files(folder / target, pinned_in, module, pattern, folder)
    pulumi = plugins.find_cli() or build_tool(CLI, folder)
    found = plugins.find(pulumi)
    if "kubernetes" not in found:
        found["kubernetes"] = build_provider(folder)
    return Tools(folder, pulumi, found, plugins.find_chart(folder))


def build_provider(folder: Path) -> Path:
    """Build the Kubernetes provider, and give its link in `folder/bin`."""
    embedded = folder / "provider"
    # Beside its own main.go these two are made by its Makefile, out of the same ones.
    pattern = "cmd/pulumi-resource-kubernetes/*.json"
    copy_files(embedded, "engine", PROVIDER, pattern, folder)
    files = ("schema.json", "terraform-mapping.json")
    overlay = {str(KUBERNETES.module / name): str(embedded / name) for name in files}
    (folder / "provider-overlay.json").write_text(json.dumps({"Replace": overlay}))
    return build_tool(KUBERNETES, folder)


def build_tool(tool: Tool, folder: Path) -> Path:
    """Build one tool unless it is there, made from the same; give its link in `folder/bin`."""

    def make(program: Path) -> None:
        env = dict(item.format(folder=folder).split("=", 1) for item in tool.environment)
        if env.get("CGO_ENABLED") == "1":
            find_compiler(tool.name)
        arguments = [word.format(folder=folder) for word in tool.arguments()]
        command: list[str | Path] = [find_go(folder), "build", "-o", program, *arguments]
        run(tool.name, command, folder / "logs" / f"build-{tool.name}.log", tool.module, env)

    sources = [tool.module / "go.mod", tool.module / "go.sum", *sorted(tool.module.glob("*.go"))]
    program = made(tool.name, make, sources, *tool.arguments(), *tool.environment)
    return link(program, folder / "bin" / tool.name)


def copy_files(target: Path, pinned_in: str, module: str, pattern: str, folder: Path) -> None:
    """Copy what matches `pattern` in a pinned `module`, unless it is there; link it at `target`."""
    home = MODULES / pinned_in

    def make(copy: Path) -> None:
        # The version is named although go.mod has it: without, Go wants the module's whole graph.
        found = download(f"{module}@{pinned(pinned_in, module)}", target.name, folder, home)
        copy.mkdir()
        for file in found.glob(pattern):
            if file.name != "kustomization.yaml":
                shutil.copyfile(file, copy / file.name)

    sources = [home / "go.mod", home / "go.sum"]
    link(made(target.name, make, sources, module, pattern), target)


def download(module: str, name: str, folder: Path, cwd: Path) -> Path:
    """Give the folder of a Go module, as `path@version`, in Go's own cache."""
    log = folder / "logs" / f"build-{name}.log"
    run(name, [find_go(folder), "mod", "download", "-json", module], log, cwd)
    return Path(json.loads(log.read_text()[log.read_text().index("{") :])["Dir"])


def _list_tools() -> list[Tool]:
    version = pinned("cluster", "k8s.io/kubernetes")
    kubernetes = Version(version)
    # Unstamped it calls itself v0.0.0-master, which charts that ask for a version refuse.
    git = "k8s.io/component-base/version.git"
    kube = (
        f"{git}Version={version}",
        f"{git}Major={kubernetes.major}",
        f"{git}Minor={kubernetes.minor}",
    )
    return [
        Tool("kube", MODULES / "cluster", ".", kube),
        Tool("kwok", MODULES / "cluster", f"{KWOK}/cmd/kwok"),
        Tool("metallb-controller", MODULES / "metallb", f"{METALLB}/controller"),
        # It runs the reloader of its own version beside Prometheus.
        Tool(
            "prometheus-operator",
            MODULES / "prometheus-operator",
            f"{OPERATOR}/cmd/operator",
            (f"{VERSION}={pinned('prometheus-operator', OPERATOR)[1:]}",),
        ),
    ]


TOOLS = _list_tools()
# The compiler's own memory is not collected below this size, which spares a tenth of the time.
UNCOLLECTED = ("GOGC=off", "GOMEMLIMIT=2GiB")
CLI = Tool(
    "pulumi",
    MODULES / "engine",
    f"{PULUMI}/cmd/pulumi",
    (f"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={pinned('engine', PULUMI)}",),
    environment=UNCOLLECTED,
)
KUBERNETES = Tool(
    "kubernetes-provider",
    MODULES / "engine",
    ".",
    # Its module is named after the day of a commit; the newest tag in it is that of its SDK.
    (f"{PROVIDER}/pkg/version.Version={pinned('engine', f'replace {SDK} => {SDK}')[1:]}",),
    environment=UNCOLLECTED,
    flags=("-overlay={folder}/provider-overlay.json",),
)
