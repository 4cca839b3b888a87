"""`python -m sandbox.real up|down`: the program on a cluster with a real node."""

from pathlib import Path

from sandbox.build import METALLB, TOOLS, Tool, build_tool, copy_files
from sandbox.processes import locked
from sandbox.toolchain import MODULES

OWN = (
    Tool("pause", MODULES / "pause", "."),
    Tool("coredns", MODULES / "coredns", "."),
    Tool("metallb-speaker", MODULES / "metallb", f"{METALLB}/speaker"),
    Tool("network-policies", MODULES / "network-policies", "."),
)


def programs(folder: Path) -> dict[str, Path]:
    """Build what runs on the node and in its own pods into `folder`; give their paths by name."""
    with locked(folder):
        return {tool.name: build_tool(tool, folder) for tool in (*TOOLS, *OWN)}


def manifests(folder: Path) -> Path:
    """Give the file with MetalLB's own objects, copied into `folder`."""
    target = folder / "manifests"
    copy_files(target, "metallb", METALLB, "config/manifests/metallb-native.yaml", folder)
    return target / "metallb-native.yaml"
