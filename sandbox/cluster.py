"""A Kubernetes cluster of plain processes on 127.0.0.1, with simulated nodes."""

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

from sandbox.apiserver import FAILURES, ApiServer, probe
from sandbox.build import Tools
from sandbox.control_plane import ControlPlane
from sandbox.objects import (
    CONTROLLER,
    METALLB,
    NODES,
    PREVIEWER,
    Node,
    definition,
    metallb,
    previewer,
)
from sandbox.processes import (
    Processes,
    SandboxError,
    end_marked,
    kept_ports,
    locked,
    write_private,
)

__all__ = ["Cluster", "Node"]

# In the order of starting.
NAMES = ("etcd", "apiserver", "controllers", "scheduler", "kwok", "operator", "metallb")
PORTS = ("etcd", "peers", "apiserver", "operator", "metrics", "metallb")
ROOM = 512 * 1024**2
"""Bytes that must be free: a stack that has just come up takes 135 MiB, and its history grows."""


class Cluster:
    """One cluster whose whole state lies in `folder`; each folder is a cluster of its own."""

    context = "homelab-sandbox"

    def __init__(
        self, folder: Path, tools: Tools, *, context: str = context, metallb: bool = True
    ) -> None:
        """Without `metallb`, its definitions and its controller are left to a release."""
        self.folder = folder.absolute()
        self.context, self._metallb = context, metallb
        self.kubeconfig = self.folder / "kubeconfig"
        self.preview_kubeconfig = self.folder / "kubeconfig-preview"
        self._tools = tools
        self._processes = Processes(self.folder)
        self._data = self.folder / "data"
        kube, etcd = tools.program("kube"), self._data / "etcd"
        self._plane = ControlPlane(self.folder, self._processes, self._run, kube, etcd)
        # Written when a start is complete: from then on what etcd holds is worth keeping.
        self._ready = self.folder / "ready.json"

    def start(self, nodes: Sequence[Node]) -> None:
        """Make the cluster run with exactly these nodes; raise SandboxError if it will not."""
        wanted = json.dumps([node.manifest() for node in nodes])
        with locked(self.folder):
            if (free := shutil.disk_usage(self.folder).free) < ROOM:
                message = f"{self.folder}: {free // 1024**2} MiB free; it must be 512 MiB or more"
                raise SandboxError(message)
            if self.running():
                if self._ready.read_text() == wanted:
                    return
                self._place(nodes)
                self._balance()
            else:
                self._stop()
                if not self._ready.exists():
                    shutil.rmtree(self._data, ignore_errors=True)
                try:
                    self._start(nodes)
                except BaseException:
                    # Whatever the reason, nothing half-started is left running.
                    self._stop()
                    raise
            write_private(self._ready, wanted)

    def stop(self) -> None:
        """End all processes; what the cluster held is there again after the next start."""
        with locked(self.folder):
            self._stop()

    def remove(self) -> None:
        """End all processes and delete what the folder holds."""
        with locked(self.folder):
            self._stop()
            for entry in self.folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                # Another command may be waiting for it.
                elif entry.name != "lock":
                    entry.unlink()

    def running(self) -> bool:
        """Say whether a start was completed, all processes live and the API server is ready."""
        files = (self._ready, self.kubeconfig)
        if not all(file.exists() for file in files) or None in self.status().values():
            return False
        with contextlib.suppress(*FAILURES):
            return bool(self._api().ask("GET", "/readyz"))
        return False

    def status(self) -> dict[str, int | None]:
        """Give the pid of each process by name, None where it does not run."""
        alive = self._processes.alive()
        names = NAMES if self._metallb else NAMES[:-1]
        return {name: alive[name].pid if name in alive else None for name in names}

    def memory(self) -> int:
        """Add up the resident memory of all processes, in bytes."""
        return self._processes.memory()

    def _start(self, nodes: Sequence[Node]) -> None:
        ports = kept_ports(self.folder / "ports.json", PORTS)
        # After a suspend KWOK brings back the node, but not the pods that were given up with it.
        patient = ["--node-monitor-grace-period=24h"]
        asked = ports["apiserver"]
        self._data.mkdir(exist_ok=True)
        self._plane.start(nodes[0].address, ports, asked, "127.0.0.1", patient)
        at = f"127.0.0.1:{asked}"
        write_private(self.kubeconfig, self._plane.describe(at, self.context))
        as_previewer = self._plane.describe(at, self.context, account=PREVIEWER)
        write_private(self.preview_kubeconfig, as_previewer)
        for path, content in previewer().items():
            self._processes.retry("apiserver", partial(self._api().apply, path, content))
        client = [f"--kubeconfig={self.kubeconfig}"]
        self._place(nodes)
        stages = [f"--config={stage}" for stage in self._tools.stages()]
        # MicroK8s' own range, too.
        simulate = ["--manage-all-nodes=true", "--cidr=10.1.0.0/16", *stages]
        self._run("kwok", [self._tools.program("kwok"), *client, *simulate])
        self._define()
        # Last, because it looks for the kinds that it acts on when it starts, and not again.
        listen = f"--web.listen-address=127.0.0.1:{ports['operator']}"
        self._run("operator", [self._tools.program("prometheus-operator"), listen])
        self._processes.retry("operator", lambda: probe(ports["operator"], "/healthz"))
        self._balance()

    def _balance(self) -> None:
        """Let MetalLB's controller run, if it does not and is wanted."""
        if not self._metallb:
            return
        # Its pod is placed by the scheduler and run by KWOK, so now all of them work.
        self._processes.retry("kwok", lambda: self._api().expect(CONTROLLER, "Ready"))
        if "metallb" in self._processes.alive():
            return
        ports = json.loads((self.folder / "ports.json").read_text())
        self._run(
            "metallb",
            [
                self._tools.program("metallb-controller"),
                f"--kubeconfig={self.kubeconfig}",
                "--namespace=metallb-system",
                "--pod-name=controller",
                "--webhook-mode=disabled",
                f"--port={ports['metrics']}",
                f"--health-probe-port={ports['metallb']}",
            ],
        )
        self._processes.retry("metallb", lambda: probe(ports["metallb"], "/readyz"))

    def _define(self) -> None:
        sheets, api = self._tools.crds(), self._api()
        if not self._metallb:
            sheets = [sheet for sheet in sheets if "metallb" not in sheet.name]
        made = sha256(b"".join(sheet.read_bytes() for sheet in sheets)).hexdigest()
        # Beside etcd's data, so that both go together. Applying takes longer than all the rest.
        done = self._data / "definitions"
        if done.exists() and done.read_text() == made:
            return

        def add(sheet: Path) -> None:
            self._processes.retry(
                "apiserver", lambda: api.apply(definition(sheet), sheet.read_bytes())
            )

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, sheets))
        for sheet in sheets:
            self._processes.retry(
                "apiserver", partial(api.expect, definition(sheet), "Established")
            )
        done.write_text(made)

    def _place(self, nodes: Sequence[Node]) -> None:
        """Have exactly these nodes, and MetalLB's pod, if wanted, on one of them."""
        api, kept = self._api(), {node.name for node in nodes}
        for node in nodes:
            path = f"{NODES}/{node.name}"
            # The first takes effect on a new node's status, the second on an old one's.
            for at in (path, f"{path}/status"):
                self._processes.retry("apiserver", partial(api.apply, at, node.manifest()))
        names = {item["metadata"]["name"] for item in api.read(NODES)["items"]}
        for name in names - kept:
            self._processes.retry("apiserver", partial(api.ask, "DELETE", f"{NODES}/{name}"))
        if not self._metallb:
            return
        pods = api.read(f"{METALLB}/pods")["items"]
        if any(pod["spec"].get("nodeName", "") not in ("", *kept) for pod in pods):
            # It is lost with its node. What MetalLB says of itself belongs to that pod, so one
            # that went on would write it, see it go, and write it again, for ever.
            self._processes.stop(["metallb"])
            gone = f"{CONTROLLER}?gracePeriodSeconds=0"
            self._processes.retry("apiserver", partial(api.ask, "DELETE", gone))
        for path, content in metallb().items():
            self._processes.retry("apiserver", partial(api.apply, path, content))

    def _api(self) -> ApiServer:
        ports = json.loads((self.folder / "ports.json").read_text())
        return self._plane.api(ports["apiserver"])

    def _run(self, name: str, command: Sequence[str | Path]) -> None:
        # Nothing of the caller's environment: no proxy, no other kubeconfig.
        environment = {"HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig)}
        self._processes.start(name, command, {"PATH": os.defpath, **environment})

    def _stop(self) -> None:
        end_marked(self.folder)
        self._processes.stop(NAMES[2:])
        # Before etcd, without which its own end takes more than a minute. It has nothing to save.
        self._processes.stop(["apiserver"], grace=1)
        self._processes.stop(["etcd"])
        self._processes.end_lost(self._tools.folder / "bin")
