"""A Kubernetes cluster of plain processes on 127.0.0.1, with simulated nodes."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from string import Template

from sandbox import addons
from sandbox.addons import MANIFESTS
from sandbox.build import Tools
from sandbox.control_plane import ControlPlane, flags
from sandbox.processes import (
    FAILURES,
    MARK,
    Processes,
    SandboxError,
    kept_ports,
    locked,
    probe,
)

NAMES = ("etcd", "apiserver", "controllers", "scheduler", "kwok", "operator", "metallb")
"""The processes, in the order of their start."""
PORTS = ("etcd", "peers", "apiserver", "operator", "metrics", "metallb")
FREE = 512
"""MiB that must be free: a stack that has just come up takes 135, and etcd's history grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine to simulate."""

    name: str
    cpus: int
    memory: str
    """A Kubernetes quantity, e.g. `93Gi`."""
    address: str
    """Its address on the home network."""

    def manifest(self) -> str:
        """Return the Node object as YAML, with the labels and the 110 pods of a kubelet."""
        template = Template((MANIFESTS / "simulated-node.yaml").read_text())
        return template.substitute(asdict(self))


class Cluster:
    """A cluster whose whole state is in `folder`; each folder is a cluster of its own."""

    context = "homelab-sandbox"

    def __init__(
        self, folder: Path, tools: Tools, *, context: str = context, metallb: bool = True
    ) -> None:
        """Without `metallb`, a release brings its definitions and its controller."""
        self.folder = folder.absolute()
        self.context, self._metallb = context, metallb
        self.kubeconfig = self.folder / "kubeconfig"
        self.preview_kubeconfig = self.folder / "kubeconfig-preview"
        self._tools = tools
        self._processes = Processes(self.folder)
        self._data = self.folder / "data"
        kube, etcd = tools.program("kube"), self._data / "etcd"
        self._plane = ControlPlane(
            self.folder, self._processes, self._run, kube, etcd, self.context
        )
        # Written by the first complete start: before it, etcd holds nothing worth keeping.
        self._ready = self.folder / "ready"

    def start(self, nodes: Sequence[Node]) -> None:
        """Make the cluster run with exactly these nodes; raises SandboxError."""
        with locked(self.folder):
            if (free := shutil.disk_usage(self.folder).free // 1024**2) < FREE:
                raise SandboxError(f"{self.folder}: {free} MiB free; it must be {FREE} MiB or more")
            try:
                if not self.running():
                    self._stop()
                    if not self._ready.exists():
                        shutil.rmtree(self._data, ignore_errors=True)
                    self._start(nodes[0].address)
                self._processes.retry("apiserver", partial(self._place, nodes))
                self._start_metallb()
            except BaseException:
                self._stop()
                raise
            self._ready.touch()

    def stop(self) -> None:
        """End all processes; the next start brings back all objects."""
        with locked(self.folder):
            self._stop()

    def remove(self) -> None:
        """End all processes and delete the content of the folder."""
        with locked(self.folder):
            self._stop()
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                # Another command may be waiting for it.
                elif entry.name != "lock":
                    entry.unlink()

    def running(self) -> bool:
        """Return whether a start was completed, all processes run and the API server is ready."""
        files = (self._ready, self.kubeconfig)
        if not all(file.exists() for file in files) or None in self.status().values():
            return False
        with contextlib.suppress(*FAILURES):
            self._plane.probe(self._ports()["apiserver"])
            return True
        return False

    def status(self) -> dict[str, int | None]:
        """Return the pid of each process by name, None if it does not run."""
        alive = self._processes.alive()
        names = NAMES if self._metallb else NAMES[:-1]
        return {name: alive[name].pid if name in alive else None for name in names}

    def _start(self, address: str) -> None:
        """Start all processes but MetalLB's; the API server advertises `address`."""
        ports = kept_ports(self.folder / "ports.json", PORTS)
        # After a suspend KWOK brings back the node, but not the pods that were evicted with it.
        patient = ["--node-monitor-grace-period=24h"]
        self._data.mkdir(exist_ok=True)
        self._plane.start(address, ports, ports["apiserver"], "127.0.0.1", patient)
        self._plane.write_kubeconfig(
            self.preview_kubeconfig, f"127.0.0.1:{ports['apiserver']}", account="sandbox-preview"
        )
        stages = [f"--config={stage}" for stage in self._tools.stages()]
        self._run("kwok", [self._tools.program("kwok"), *flags("kwok", {}), *stages])
        self._processes.retry("apiserver", self._define)
        # After the definitions, which it looks for once, at its start.
        listen = flags("prometheus-operator", ports)
        self._run("operator", [self._tools.program("prometheus-operator"), *listen])
        health = f"http://127.0.0.1:{ports['operator']}/healthz"
        self._processes.retry("operator", partial(probe, health))

    def _place(self, nodes: Sequence[Node]) -> None:
        """Apply exactly these nodes, the account of previews, and MetalLB's pod if wanted."""
        kubectl = self._plane.kubectl
        addons.apply(kubectl, [MANIFESTS / "previewer.yaml"])
        content = "---\n".join(node.manifest() for node in nodes)
        # The first takes effect on a new node's status, the second on an old one's.
        for subresource in ("", "status"):
            options = ("--filename=-", f"--subresource={subresource}")
            addons.run(kubectl, *addons.APPLY, *options, content=content)
        kept = {f"node/{node.name}" for node in nodes}
        if gone := set(addons.run(kubectl, "get", "nodes", "--output=name").split()) - kept:
            addons.run(kubectl, "delete", *gone)
        if not self._metallb:
            return
        in_place = ("--namespace=metallb-system", "--output=jsonpath={.items[*].spec.nodeName}")
        places = addons.run(kubectl, "get", "pods", *in_place).split()
        if not kept.issuperset(f"node/{name}" for name in places):
            # The pod is lost with its node. MetalLB's own objects belong to it, so a controller
            # that went on would write them, see them deleted, and write them again, for ever.
            self._processes.stop(["metallb"])
            addons.run(kubectl, "delete", "pod/controller", in_place[0], "--force")
        addons.apply(kubectl, [MANIFESTS / "metallb-controller.yaml"])

    def _define(self) -> None:
        """Apply the definitions of MetalLB, if wanted, and the operator; wait until they serve."""
        files, kubectl = self._tools.crds(), self._plane.kubectl
        if not self._metallb:
            files = [file for file in files if "metallb" not in file.name]
        addons.apply(kubectl, files, self._data / "definitions")
        addons.run(kubectl, "wait", "--for=condition=Established", "crd", "--all")

    def _start_metallb(self) -> None:
        """Start MetalLB's controller, if it does not run and is wanted."""
        if not self._metallb:
            return
        # Scheduler and KWOK work once its pod is ready.
        ready = ("wait", "--for=condition=Ready", "pod/controller", "--namespace=metallb-system")
        self._processes.retry("kwok", partial(addons.run, self._plane.kubectl, *ready))
        if "metallb" in self._processes.alive():
            return
        ports = self._ports()
        flag = flags("metallb-controller", {**ports, "kubeconfig": self.kubeconfig})
        self._run("metallb", [self._tools.program("metallb-controller"), *flag])
        url = f"http://127.0.0.1:{ports['metallb']}/readyz"
        self._processes.retry("metallb", partial(probe, url))

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return ports

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        # Not the caller's environment, which may name a proxy or another kubeconfig.
        environment = {"PATH": os.defpath, "HOME": str(self.folder), MARK: str(self.folder)}
        self._processes.start(name, command, {**environment, "KUBECONFIG": str(self.kubeconfig)})

    def _stop(self) -> None:
        self._processes.stop([""], grace=1)
        self._processes.stop(NAMES[2:])
        # Before etcd: without it, the API server takes more than a minute to end.
        self._processes.stop(["apiserver"], grace=1)
        self._processes.stop(["etcd"])
