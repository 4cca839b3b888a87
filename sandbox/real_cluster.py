"""The cluster with a real node: the home network, the node, what runs on it, and the way to it."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from kubernetes.dynamic import DynamicClient

from sandbox import addons, network, oci
from sandbox.addons import MANIFESTS
from sandbox.control_plane import ControlPlane
from sandbox.images import every_image
from sandbox.node import Node
from sandbox.processes import free_ports, kept_ports, locked, probe

PAGE = "192.168.1.101:8080"
CONTROL_PLANE = {"etcd": 2379, "peers": 2380, "apiserver": 16443}
"""Its ports in the node."""
PODS = {"kube-system": 1, "metallb-system": 2}
"""Number of the addons' pods by namespace."""
PATIENCE = 300
"""Seconds for the pods of a namespace: on an idle machine all take 40."""
DIRECTORIES = ("models", "open-webui", "prometheus")
"""The directories that docs/install.md has people make on the data disk."""


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    began = time.monotonic()
    print(f"  {what}", flush=True)
    yield
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


class Cluster:
    """A cluster whose one node is real, with all its state in `folder`.

    It lives no longer than the process that started it, which holds the folder as long.
    `programs` are the built ones by name, `manifests` the files with MetalLB's objects and the
    operator's definitions, and images are made in `cache`.
    """

    context = "homelab-sandbox"

    def __init__(
        self, folder: Path, programs: Mapping[str, Path], manifests: Sequence[Path], cache: Path
    ) -> None:
        self.folder = folder.absolute()
        self.kubeconfig = self.preview_kubeconfig = self.folder / "kubeconfig"
        self.node = Node("evo4t", network.NODE, self.folder, programs["pause"])
        start, etcd = self.node.service, self.folder / "disk" / "etcd"
        plane = (self.folder, self.node.processes, start, programs["kube"], etcd)
        self.plane = ControlPlane(*plane, self.context, self.node.name)
        self.holders: dict[str, int] = {}
        """A process in each network namespace: `lan`, `node`, `client`, `tailnet`."""
        self.ports: dict[str, int] = {}
        """The ports of 127.0.0.1 that lead into the network: `api`, `page`, `prometheus` …"""
        self.disks = {"/mnt/evo4t": self.folder / "evo4t"}
        """Folders that the node has as disks, by where they are mounted at its start."""
        self.authority = self.folder / "registry" / "registry.pem"
        """The certificate of who vouches for the model registry."""
        self._programs, self._manifests, self._cache = programs, manifests, cache
        self._held, self._started = contextlib.ExitStack(), False

    def start(self, images: Sequence[oci.Image] | None = None) -> None:
        """Start everything; return when node and addons are ready.

        `images` are those that the node has, and all there are if it is not given.
        """
        self._held.close()
        self._held.enter_context(locked(self.folder))
        self._started = True
        for name in DIRECTORIES:
            (self.folder / "evo4t" / name).mkdir(parents=True, exist_ok=True)
        try:
            self._start(images)
        except BaseException:
            # Whatever the reason, nothing half-started is left running.
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, an engine too; what it held is there again after the next start.

        What another process has started in this folder, or does, goes on.
        """
        if self._started:
            self.node.processes.end_unrecorded()
            self.node.end()
            self._started = False
        self._held.close()

    def images(self) -> list[oci.Image]:
        """Give all images that pods here ask for; the model registry's certificate must be made."""
        return every_image(self._cache, self._programs, self.authority)

    @property
    def kubectl(self) -> list[str]:
        """The command line of kubectl, as the administrator."""
        return [str(self._programs["kube"]), "kubectl", f"--kubeconfig={self.kubeconfig}"]

    def command(self, where: str, *command: str) -> list[str]:
        """Give the command line that runs `command` at `lan`, `client`, `tailnet` or `node`."""
        return ["nsenter", "-t", str(self.holders[where]), "-n", *command]

    def client(self) -> DynamicClient:
        """Return the official client, as the administrator."""
        return self.plane.client()

    def lead(self, name: str, where: str, target: str) -> str:
        """Let the port `name` of 127.0.0.1 lead to `target`, as if asked from `where`.

        Gives its URL.
        """
        # It may have led elsewhere.
        self.node.processes.stop([f"relay-{name}"])
        port = self.ports.setdefault(name, free_ports(1)[0])
        way = [str(self.holders[where]), str(port), target]
        self.node.bound(f"relay-{name}", [sys.executable, "-m", network.__name__, *way])
        return f"http://127.0.0.1:{port}"

    def lead_to_service(self, name: str, namespace: str, service: str, port: int) -> str:
        """Let the port `name` of 127.0.0.1 lead to a Service inside, as if asked from the node."""
        services = self.client().resources.get(api_version="v1", kind="Service")
        address = services.get(name=service, namespace=namespace).spec.clusterIP
        return self.lead(name, "node", f"{address}:{port}")

    def wait_for_page(self) -> None:
        """Wait until the chat page answers; raises SandboxError after ten minutes."""
        ask = partial(probe, f"http://127.0.0.1:{self.ports['page']}/health")
        self.node.processes.retry("kubelet", ask, 600)

    def _start(self, images: Sequence[oci.Image] | None) -> None:
        node, retry = self.node, self.node.processes.retry
        with step("namespaces"):
            node.begin()
            for name in ("lan", "client", "tailnet"):
                self.holders[name] = node.hold(name, "--net")
            self.holders["node"] = node.start(
                self.disks,
                {
                    "containerd/config.toml": (MANIFESTS / "containerd.toml").read_text(),
                    "cni/net.d/10-pods.conflist": (MANIFESTS / "pods.conflist").read_text(),
                },
            )
            network.connect(self.holders)
            self._start_registry()
        with step("control plane"):
            # The same ones after each start: the page's is in its list of origins.
            file = self.folder / "ports.json"
            self.ports = kept_ports(file, ("api", "page", "prometheus"))
            self.lead("api", "node", f"{node.address}:{CONTROL_PLANE['apiserver']}")
            self.lead("page", "client", PAGE)
            self.plane.start(node.address, CONTROL_PLANE, self.ports["api"])
            applied = self.folder / "disk" / "applied"
            applied.mkdir(exist_ok=True)
            addons.apply(self.client(), [MANIFESTS / "capacity.yaml"], applied / "capacity")
        with step("images"):
            node.service("containerd", ["containerd"])
            retry("containerd", lambda: node.listens(Path("/run/containerd/containerd.sock")))
            retry("registry", self.authority.stat)
            oci.load(node, self.images() if images is None else images)
        # Kubernetes' times are whole seconds.
        since = float(int(time.time()))
        with step("node"):
            # Before there are pods.
            admin = self.plane.kubeconfig("admin")
            network.enforce_policies(node, self._programs["network-policies"], admin)
            self._start_kubelet()
            client = self.client()
            retry(
                "kubelet",
                lambda: addons.require_condition(addons.objects(client, "Node"), "Ready", since),
            )
        with step("DNS and load balancer"):
            files = [MANIFESTS / "coredns.yaml", *self._manifests]
            addons.apply(client, files, applied / "addons")
            for namespace, count in PODS.items():
                ready = partial(addons.require_running, client, namespace, count, since)
                retry("kubelet", ready, PATIENCE)

    def _start_registry(self) -> None:
        self.authority.parent.mkdir(exist_ok=True)
        self.authority.unlink(missing_ok=True)
        words = [str(self.holders["lan"]), str(self.authority.parent)]
        self.node.bound("registry", [sys.executable, "-m", "sandbox.model_registry", *words])

    def _start_kubelet(self) -> None:
        kube, node, plane = self._programs["kube"], self.node, self.plane
        kubelet = [
            f"--config={MANIFESTS / 'kubelet.yaml'}",
            f"--kubeconfig={plane.kubeconfig('kubelet')}",
            f"--client-ca-file={plane.authority}",
            f"--node-ip={node.address}",
            f"--hostname-override={node.name}",
            "--cert-dir=/var/lib/kubelet/pki",
        ]
        node.service("kubelet", [kube, "kubelet", *kubelet])
        proxy = [
            "--proxy-mode=nftables",
            f"--kubeconfig={plane.kubeconfig('proxy')}",
            f"--hostname-override={node.name}",
            f"--cluster-cidr={network.PODS}",
            # These are read-only outside the machine's own network namespace.
            *("--conntrack-max-per-core=0", "--conntrack-min=0"),
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]
        node.service("proxy", [kube, "proxy", *proxy])
