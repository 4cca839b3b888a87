"""A Kubernetes cluster of plain processes on 127.0.0.1, with simulated nodes."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sandbox import addons
from sandbox.addons import MANIFESTS
from sandbox.build import Tools
from sandbox.control_plane import ControlPlane
from sandbox.processes import (
    FAILURES,
    MARK,
    Processes,
    SandboxError,
    kept_ports,
    locked,
    probe,
    write_private,
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

    def manifest(self) -> dict[str, Any]:
        """Return the Node object, with the labels and the 110 pods of a kubelet."""
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        resources = {"cpu": str(self.cpus), "memory": self.memory, "pods": "110"}
        addresses = {"InternalIP": self.address, "Hostname": self.name}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels},
            "status": {
                "capacity": resources,
                "allocatable": resources,
                "addresses": [
                    {"type": kind, "address": address} for kind, address in addresses.items()
                ],
            },
        }


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
        self._ready = self.folder / "ready.json"

    def start(self, nodes: Sequence[Node]) -> None:
        """Make the cluster run with exactly these nodes; raises SandboxError."""
        wanted = json.dumps([node.manifest() for node in nodes])
        with locked(self.folder):
            if (free := shutil.disk_usage(self.folder).free // 1024**2) < FREE:
                raise SandboxError(f"{self.folder}: {free} MiB free; it must be {FREE} MiB or more")
            if self.running():
                if self._ready.read_text() == wanted:
                    return
                self._processes.retry("apiserver", partial(self._place, nodes))
                self._start_metallb()
            else:
                self._stop()
                if not self._ready.exists():
                    shutil.rmtree(self._data, ignore_errors=True)
                try:
                    self._start(nodes)
                except BaseException:
                    self._stop()
                    raise
            write_private(self._ready, wanted)

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

    def memory(self) -> int:
        """Return the resident memory of all processes, in bytes."""
        return self._processes.memory()

    def _start(self, nodes: Sequence[Node]) -> None:
        ports = kept_ports(self.folder / "ports.json", PORTS)
        # After a suspend KWOK brings back the node, but not the pods that were evicted with it.
        patient = ["--node-monitor-grace-period=24h"]
        self._data.mkdir(exist_ok=True)
        self._plane.start(nodes[0].address, ports, ports["apiserver"], "127.0.0.1", patient)
        self._plane.write_kubeconfig(
            self.preview_kubeconfig, f"127.0.0.1:{ports['apiserver']}", account="sandbox-preview"
        )
        self._processes.retry("apiserver", partial(self._place, nodes))
        stages = [f"--config={stage}" for stage in self._tools.stages()]
        # MicroK8s' own range of addresses of pods.
        simulate = ["--manage-all-nodes=true", "--cidr=10.1.0.0/16", *stages]
        self._run("kwok", [self._tools.program("kwok"), *simulate])
        self._processes.retry("apiserver", self._define)
        # After the definitions, which it looks for once, at its start.
        listen = f"--web.listen-address=127.0.0.1:{ports['operator']}"
        self._run("operator", [self._tools.program("prometheus-operator"), listen])
        health = f"http://127.0.0.1:{ports['operator']}/healthz"
        self._processes.retry("operator", partial(probe, health))
        self._start_metallb()

    def _place(self, nodes: Sequence[Node]) -> None:
        """Apply exactly these nodes, the account of previews, and MetalLB's pod if wanted."""
        client = self._plane.client()
        addons.apply(client, [MANIFESTS / "previewer.yaml"])
        for node in nodes:
            # The first takes effect on a new node's status, the second on an old one's.
            addons.apply_object(client, node.manifest())
            addons.apply_object(client, node.manifest(), "status")
        kept = {node.name for node in nodes}
        for item in addons.objects(client, "Node"):
            if (name := item["metadata"]["name"]) not in kept:
                client.resources.get(api_version="v1", kind="Node").delete(name=name)
        if not self._metallb:
            return
        pods = addons.objects(client, "Pod", "metallb-system")
        if any(pod["spec"].get("nodeName", "") not in ("", *kept) for pod in pods):
            # The pod is lost with its node. MetalLB's own objects belong to it, so a controller
            # that went on would write them, see them deleted, and write them again, for ever.
            self._processes.stop(["metallb"])
            client.resources.get(api_version="v1", kind="Pod").delete(
                name="controller", namespace="metallb-system", grace_period_seconds=0
            )
        addons.apply(client, [MANIFESTS / "metallb-controller.yaml"])

    def _define(self) -> None:
        """Apply the definitions of MetalLB, if wanted, and the operator; wait until they serve."""
        files, client = self._tools.crds(), self._plane.client()
        if not self._metallb:
            files = [file for file in files if "metallb" not in file.name]
        addons.apply(client, files, self._data / "definitions")
        definitions = addons.objects(
            client, "CustomResourceDefinition", version="apiextensions.k8s.io/v1"
        )
        addons.require_condition(definitions, "Established")

    def _start_metallb(self) -> None:
        """Start MetalLB's controller, if it does not run and is wanted."""
        if not self._metallb:
            return

        def placed() -> None:
            pods = addons.objects(self._plane.client(), "Pod", "metallb-system")
            addons.require_condition(pods, "Ready")

        # Scheduler and KWOK work once its pod is ready.
        self._processes.retry("kwok", placed)
        if "metallb" in self._processes.alive():
            return
        ports = self._ports()
        serve = [
            f"--kubeconfig={self.kubeconfig}",
            "--namespace=metallb-system",
            "--pod-name=controller",
            "--webhook-mode=disabled",
            f"--port={ports['metrics']}",
            f"--health-probe-port={ports['metallb']}",
        ]
        self._run("metallb", [self._tools.program("metallb-controller"), *serve])
        ready = f"http://127.0.0.1:{ports['metallb']}/readyz"
        self._processes.retry("metallb", partial(probe, ready))

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return ports

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        # Not the caller's environment, which may name a proxy or another kubeconfig.
        environment = {"PATH": os.defpath, "HOME": str(self.folder), MARK: str(self.folder)}
        self._processes.start(name, command, {**environment, "KUBECONFIG": str(self.kubeconfig)})

    def _stop(self) -> None:
        self._processes.end_unrecorded()
        self._processes.stop(NAMES[2:])
        # Before etcd: without it, the API server takes more than a minute to end.
        self._processes.stop(["apiserver"], grace=1)
        self._processes.stop(["etcd"])
