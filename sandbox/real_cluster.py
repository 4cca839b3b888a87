"""A cluster with a real node on a home network, and ports forwarded into it."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from config.versions import OLLAMA_IMAGE
from sandbox import addons, network, oci
from sandbox.addons import MANIFESTS
from sandbox.control_plane import ControlPlane, flags
from sandbox.images import NAMES, image, trusting
from sandbox.node import Node, end
from sandbox.processes import free_ports, kept_ports, locked, probe

PAGE = "192.168.1.101:8080"
CONTROL_PLANE = {"etcd": 2379, "peers": 2380, "apiserver": 16443}
"""Ports of the control plane in the node."""
PATIENCE = 300
"""Seconds for the pods of a namespace: on an idle machine all take 40."""
DISK = "/mnt/evo4t"
DIRECTORIES = ("models", "open-webui", "prometheus")
"""Directories on the data disk, which docs/install.md lets people create."""


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Print the name of a step at its start, and its duration at its end."""
    start = time.monotonic()
    print(f"  {what}", flush=True)
    yield
    print(f"  {what}: {time.monotonic() - start:.1f} s", flush=True)


class Cluster:
    """A cluster with a real node, or two, and its whole state in `folder`.

    It ends with the process that started it, which locks the folder until then. `programs` are by
    name, `manifests` have MetalLB's objects and the operator's definitions. Images that are not
    `pulled`, by name, are made of the programs. `second` is the name of a second node.
    """

    context = "homelab-sandbox"

    def __init__(
        self,
        folder: Path,
        programs: Mapping[str, Path],
        manifests: Sequence[Path],
        pulled: Mapping[str, oci.Image] | None = None,
        second: str = "",
    ) -> None:
        self.folder = folder.absolute()
        self.kubeconfig = self.preview_kubeconfig = self.folder / "kubeconfig"
        self.node = Node("evo4t", network.NODE, self.folder, programs["pause"])
        self.nodes = {"node": self.node}
        """The nodes by their place in the network; the first has the control plane."""
        if second:
            address, _ = network.NODES["second"]
            self.nodes["second"] = Node(second, address, self.folder / "second", programs["pause"])
        start, etcd = self.node.service, self.folder / "disk" / "etcd"
        plane = (self.folder, self.node.processes, start, programs["kube"], etcd)
        names = [node.name for node in self.nodes.values()]
        self.plane = ControlPlane(*plane, self.context, names)
        self.holders: dict[str, int] = {}
        """Pid of a process in each network namespace: `lan`, `client`, `tailnet` and the nodes."""
        self.ports: dict[str, int] = {}
        """Ports of 127.0.0.1 that are forwarded: `api`, `page`, `prometheus` …"""
        self.disks = {DISK: self.folder / "evo4t"}
        """Folders that the first node has as disks, by mount point; the second has one at DISK."""
        self.authority = self.folder / "registry" / "registry.pem"
        """Certificate of the authority that signs the model registry's."""
        self._programs, self._manifests, self._pulled = programs, manifests, pulled or {}
        self._lock, self._started = contextlib.ExitStack(), False

    def start(self, images: Sequence[oci.Image] | None = None) -> None:
        """Start node and addons, and wait until they are ready; raises SandboxError.

        `images`, by default all, are imported.
        """
        self._lock.close()
        self._lock.enter_context(locked(self.folder))
        self._started = True
        for folder in (node.folder / "evo4t" for node in self.nodes.values()):
            for name in DIRECTORIES:
                (folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._start(images)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes, an engine too, if this object started them.

        The next start brings back all objects.
        """
        if self._started:
            for node in self.nodes.values():
                end(node.folder)
            self._started = False
        self._lock.close()

    def images(self) -> list[oci.Image]:
        """Return the images of all pods; needs the model registry's certificate."""
        images = {name: self._pulled.get(name) or image(name, self._programs) for name in NAMES}
        images[OLLAMA_IMAGE] = trusting(images[OLLAMA_IMAGE], self.authority)
        return list(images.values())

    @property
    def kubectl(self) -> list[str]:
        """Command line of kubectl, as the administrator."""
        return self.plane.kubectl

    def command(self, where: str, *command: str) -> list[str]:
        """Return the command line that runs `command` at a place in the network."""
        return ["nsenter", "-t", str(self.holders[where]), "-n", *command]

    def forward(self, name: str, where: str, target: str) -> str:
        """Forward the port `name` of 127.0.0.1 to `target` at `where`; returns its URL."""
        # It may have another target.
        self.node.processes.stop([f"forward-{name}"])
        port = self.ports.setdefault(name, free_ports(1)[0])
        command = network.forwarding(self.holders[where], port, target)
        self.node.bound(f"forward-{name}", command)
        return f"http://127.0.0.1:{port}"

    def forward_service(self, name: str, namespace: str, service: str, port: int) -> str:
        """Forward the port `name` of 127.0.0.1 to a Service, as seen from the node."""
        what = (f"service/{service}", f"--namespace={namespace}")
        address = addons.run(self.kubectl, "get", *what, "--output=jsonpath={.spec.clusterIP}")
        return self.forward(name, "node", f"{address}:{port}")

    def wait_for_page(self) -> None:
        """Wait until the chat page answers; raises SandboxError after ten minutes."""
        ask = partial(probe, f"http://127.0.0.1:{self.ports['page']}/health")
        self.node.processes.retry("kubelet", ask, 600)

    def start_node(self, place: str) -> None:
        """Start a node again that was cut off from power; its pods come back by themselves."""
        end(self.nodes[place].folder)
        self._boot(place)
        network.join(self.holders, place)
        self._start_containerd(self.nodes[place], [])
        self._start_kubelet(self.nodes[place])

    def _start(self, images: Sequence[oci.Image] | None) -> None:
        node, retry = self.node, self.node.processes.retry
        with step("namespaces"):
            for each in self.nodes.values():
                end(each.folder)
            for name in ("lan", "client", "tailnet"):
                self.holders[name] = node.hold(name, "--net")
            for place in self.nodes:
                self._boot(place)
            network.connect(self.holders)
            self._start_registry()
        with step("control plane"):
            # Kept, because the page's is in its list of origins.
            file = self.folder / "ports.json"
            self.ports = kept_ports(file, ("api", "page", "prometheus"))
            self.forward("api", "node", f"{node.address}:{CONTROL_PLANE['apiserver']}")
            self.forward("page", "client", PAGE)
            self.plane.start(node.address, CONTROL_PLANE, self.ports["api"], node.address)
            applied = self.folder / "disk" / "applied"
            applied.mkdir(exist_ok=True)
            addons.apply(self.kubectl, [MANIFESTS / "capacity.yaml"], applied / "capacity")
        with step("images"):
            retry("registry", self.authority.stat)
            for each in self.nodes.values():
                self._start_containerd(each, self.images() if images is None else images)
        # Kubernetes' times are whole seconds.
        since = float(int(time.time()))
        with step("node"):
            for each in self.nodes.values():
                self._start_kubelet(each)
            retry("kubelet", partial(addons.require_nodes, self.kubectl, since))
        with step("DNS and load balancer"):
            files = [MANIFESTS / "coredns.yaml", *self._manifests]
            addons.apply(self.kubectl, files, applied / "addons")
            # MetalLB has a controller, and a speaker on each node.
            for namespace, count in {
                "kube-system": 1,
                "metallb-system": 1 + len(self.nodes),
            }.items():
                ready = partial(addons.require_running, self.kubectl, namespace, count, since)
                retry("kubelet", ready, PATIENCE)
            # A pod that is ready may not be an endpoint of MetalLB's webhook yet.
            asks = ("create", "--dry-run=server", f"--filename={MANIFESTS / 'webhook.yaml'}")
            retry("kubelet", partial(addons.run, self.kubectl, *asks), PATIENCE)

    def _boot(self, place: str) -> None:
        """Create the node at a place in the network, not yet connected."""
        node = self.nodes[place]
        pods = (MANIFESTS / "pods.conflist").read_text()
        etc = {
            "containerd/config.toml": (MANIFESTS / "containerd.toml").read_text(),
            "cni/net.d/10-pods.conflist": pods.replace("10.1.0.0/24", network.NODES[place][1]),
            "hosts": "127.0.0.1 localhost\n",
            "resolv.conf": f"nameserver {network.ROUTER}\n",
        }
        disks = self.disks if node is self.node else {DISK: node.folder / "evo4t"}
        self.holders[place] = node.start(disks, etc)

    def _start_registry(self) -> None:
        self.authority.parent.mkdir(exist_ok=True)
        self.authority.unlink(missing_ok=True)
        serve = (sys.executable, "-m", "sandbox.model_registry", str(self.authority.parent))
        self.node.bound("registry", self.command("lan", *serve))

    def _start_containerd(self, node: Node, images: Sequence[oci.Image]) -> None:
        node.service("containerd", ["containerd"])
        socket = "/run/containerd/containerd.sock"
        node.processes.retry("containerd", partial(node.connect, socket))
        oci.load(node, images)

    def _start_kubelet(self, node: Node) -> None:
        kube, plane = self._programs["kube"], self.plane
        # First, so that no pod starts without policies.
        node.run("iptables-restore", "--wait", "--noflush", MANIFESTS / "policies.iptables")
        policies = self._programs["network-policies"]
        node.service("network-policies", [policies, plane.kubeconfig("admin"), node.name])
        keys = plane.authority.parent
        values = {"manifests": MANIFESTS, "keys": keys, "node": node.name, "address": node.address}
        node.service("kubelet", [kube, "kubelet", *flags("kubelet", values)])
        node.service("proxy", [kube, "proxy", *flags("proxy", values)])
