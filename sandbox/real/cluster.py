"""The cluster with a real node: the home network, the node, what runs on it, and the way to it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import DynamicApiError, ResourceNotFoundError

from sandbox.apiserver import probe
from sandbox.processes import kept_ports, locked
from sandbox.real import network, oci, policies, registry, relay
from sandbox.real.control_plane import PORT, ControlPlane
from sandbox.real.node import Node

MANIFESTS = Path(__file__).parent / "manifests"
PAGE = "192.168.1.101:8080"
ADDONS = {
    "coredns": "kube-system",
    "controller": "metallb-system",
    "speaker": "metallb-system",
}


class Yaml(yaml.CSafeLoader):
    """Reads `=` as text, as YAML 1.2 does: it is a value in the operator's definitions."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: rules
        for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items()
        if first != "="
    }


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    began = time.monotonic()
    print(f"  {what}", flush=True)
    yield
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


class Cluster:
    """A cluster whose one node is real, with all its state in `folder`.

    It lives no longer than the process that started it. `programs` are the built ones by name,
    `addons` are the files with what is on it from the start beside DNS.
    """

    context = "homelab-sandbox"

    def __init__(self, folder: Path, programs: Mapping[str, Path], addons: Sequence[Path]) -> None:
        self.folder = folder.absolute()
        self.kubeconfig = self.folder / "kubeconfig"
        self.node = Node("evo4t", network.NODE, self.folder, programs["pause"])
        self.holders: dict[str, int] = {}
        """A process in each network namespace: `lan`, `node`, `client`, `tailnet`."""
        self.ports: dict[str, int] = {}
        """The ports of 127.0.0.1 that lead to the `api` and to the `page`."""
        self._programs, self._addons = programs, addons
        self._registry = self.folder / "registry" / "registry.pem"
        self._plane = ControlPlane(self.node, programs["kube"])

    def start(self, images: Callable[[Path], Sequence[oci.Image]], disk: Sequence[str]) -> None:
        """Start everything; return when node and addons are ready.

        `images` gives the images, from the certificate of the model registry's authority; `disk`
        are the directories that the data disk has.
        """
        with locked(self.folder):
            for name in disk:
                (self.folder / "evo4t" / name).mkdir(parents=True, exist_ok=True)
            try:
                self._start(images)
            except BaseException:
                # Whatever the reason, nothing half-started is left running.
                self.node.end()
                raise

    def stop(self) -> None:
        """End everything; what it held is there again after the next start."""
        with locked(self.folder):
            self.node.end()

    def command(self, where: str, *command: str) -> list[str]:
        """Give the command line that runs `command` at `lan`, `client`, `tailnet` or `node`."""
        return ["nsenter", "-t", str(self.holders[where]), "-n", *command]

    def client(self) -> DynamicClient:
        """The official client, as the administrator."""
        api = config.new_client_from_config(  # type: ignore[no-untyped-call]
            str(self.kubeconfig), self.context
        )
        cache = str(self.folder / "discovery.json")
        return DynamicClient(api, cache_file=cache)  # type: ignore[no-untyped-call]

    def apply(self, file: Path) -> None:
        """Apply all objects of a file, on the server's side."""
        client = self.client()
        for item in filter(None, yaml.load_all(file.read_text(), Yaml)):
            found = client.resources.get(api_version=item["apiVersion"], kind=item["kind"])
            found.server_side_apply(
                body=item,
                name=item["metadata"]["name"],
                namespace=item["metadata"].get("namespace"),
                field_manager="homelab-sandbox",
                force_conflicts=True,
            )

    def wait_for_page(self) -> None:
        """Wait until the chat page answers; raises SandboxError after ten minutes."""
        ask = partial(probe, self.ports["page"], "/health")
        self.node.processes.retry("kubelet", ask, 600)

    def _start(self, images: Callable[[Path], Sequence[oci.Image]]) -> None:
        node, retry = self.node, self.node.processes.retry
        with step("namespaces"):
            node.begin()
            for name in ("lan", "client", "tailnet"):
                self.holders[name] = node.hold(name, "--net")
            self.holders["node"] = node.start(
                {"/mnt/evo4t": self.folder / "evo4t"},
                {
                    "containerd/config.toml": (MANIFESTS / "containerd.toml").read_text(),
                    "cni/net.d/10-pods.conflist": (MANIFESTS / "pods.conflist").read_text(),
                },
            )
            network.connect(self.holders)
            self._start_registry()
        with step("control plane"):
            ports = self.ports = kept_ports(self.folder / "ports.json", ("api", "page"))
            self._relay("node", ports["api"], f"{node.address}:{PORT}")
            self._relay("client", ports["page"], PAGE)
            self._plane.start(ports["api"])
            at = f"127.0.0.1:{ports['api']}"
            self._plane.write_kubeconfig(self.kubeconfig, at, "admin", self.context)
            self.apply(MANIFESTS / "capacity.yaml")
        with step("images"):
            node.service("containerd", ["containerd"])
            retry("containerd", lambda: node.listens(Path("/run/containerd/containerd.sock")))
            retry("registry", self._registry.stat)
            oci.load(node, images(self._registry))
        with step("node"):
            self._start_kubelet()
            retry("kubelet", self._expect_node)
        with step("network policies, DNS, load balancer"):
            admin = self._plane.kubeconfig("admin")
            policies.enforce(node, self._programs["network-policies"], admin)
            self.apply(MANIFESTS / "coredns.yaml")
            for file in self._addons:
                self.apply(file)
            for name, namespace in ADDONS.items():
                retry("kubelet", partial(self._expect_pods, name, namespace))

    def _start_registry(self) -> None:
        self._registry.parent.mkdir(exist_ok=True)
        self._registry.unlink(missing_ok=True)
        module = [sys.executable, "-m", registry.__name__]
        folder = str(self._registry.parent)
        self.node.bound("registry", [*module, str(self.holders["lan"]), folder])

    def _start_kubelet(self) -> None:
        kube, node = self._programs["kube"], self.node
        own = {"authentication": {"x509": {"clientCAFile": str(self._plane.authority)}}}
        kubelet = yaml.safe_load((MANIFESTS / "kubelet.yaml").read_text())
        kubelet["authentication"] |= own["authentication"]
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
        proxy = yaml.safe_load((MANIFESTS / "kube-proxy.yaml").read_text())
        proxy["hostnameOverride"] = node.name
        proxy["clientConnection"] = {"kubeconfig": str(self._plane.kubeconfig("proxy"))}
        (self.folder / "kube-proxy.yaml").write_text(yaml.safe_dump(proxy))
        node.service(
            "kubelet",
            [
                *(kube, "kubelet", f"--config={self.folder / 'kubelet.yaml'}"),
                f"--kubeconfig={self._plane.kubeconfig('kubelet')}",
                f"--node-ip={node.address}",
                f"--hostname-override={node.name}",
                "--cert-dir=/var/lib/kubelet/pki",
            ],
        )
        node.service("proxy", [kube, "proxy", f"--config={self.folder / 'kube-proxy.yaml'}"])

    def _relay(self, where: str, port: int, target: str) -> None:
        """Let `port` of 127.0.0.1 lead to `target`, as if asked from `where`."""
        script = [sys.executable, relay.__file__, str(self.holders[where]), f"{port}={target}"]
        self.node.bound(f"relay-{where}", script)

    def _expect_node(self) -> None:
        """Raise ConnectionError unless the node is ready."""
        found = self._get("v1", "Node", self.node.name)
        _expect(found, "Ready")

    def _expect_pods(self, name: str, namespace: str) -> None:
        """Raise ConnectionError unless the Deployment or DaemonSet has all its pods ready."""
        kind = "DaemonSet" if name == "speaker" else "Deployment"
        status = self._get("apps/v1", kind, name, namespace)["status"]
        ready = status.get("readyReplicas", status.get("numberReady", 0))
        if not ready:
            raise ConnectionError(f"{namespace}/{name} has no pod that is ready")

    def _get(self, version: str, kind: str, name: str, namespace: str | None = None) -> Any:
        try:
            resource = self.client().resources.get(api_version=version, kind=kind)
            return resource.get(name=name, namespace=namespace).to_dict()
        except (DynamicApiError, ResourceNotFoundError, ApiException) as error:
            raise ConnectionError(str(error).partition("\n")[0]) from error


def _expect(item: Mapping[str, Any], condition: str) -> None:
    conditions = item["status"].get("conditions", [])
    if not any(one["type"] == condition and one["status"] == "True" for one in conditions):
        raise ConnectionError(f"{item['metadata']['name']} is not {condition}")
