"""The cluster with a real node: the home network, the node, what runs on it, and the way to it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from urllib3.exceptions import HTTPError

from sandbox.apiserver import probe
from sandbox.processes import kept_ports, locked
from sandbox.real import network, oci, policies, registry, relay
from sandbox.real.control_plane import PORT, ControlPlane
from sandbox.real.node import Node

MANIFESTS = Path(__file__).parent / "manifests"
PORTS = ("api", "page", "prometheus")
PAGE = "192.168.1.101:8080"
PODS = {"kube-system": 1, "metallb-system": 2}
"""How many pods the addons have, by namespace."""


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
        self.kubeconfig = self.preview_kubeconfig = self.folder / "kubeconfig"
        self.node = Node("evo4t", network.NODE, self.folder, programs["pause"])
        self.holders: dict[str, int] = {}
        """A process in each network namespace: `lan`, `node`, `client`, `tailnet`."""
        self.ports: dict[str, int] = {}
        """The ports of 127.0.0.1 that lead to `api`, `page` and `prometheus`."""
        self._programs, self._addons = programs, addons
        self.authority = self.folder / "registry" / "registry.pem"
        """The certificate of who vouches for the model registry."""
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

    def open_prometheus(self) -> None:
        """Let its port lead to Prometheus, which has no address on the home network."""
        services = self.client().resources.get(api_version="v1", kind="Service")
        found = services.get(name="kube-prom-stack-prometheus", namespace="observability")
        target = f"{found.spec.clusterIP}:9090"
        self._relay("prometheus", "node", target)

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
            ports = self.ports = kept_ports(self.folder / "ports.json", PORTS)
            self._relay("api", "node", f"{node.address}:{PORT}")
            self._relay("page", "client", PAGE)
            self._plane.start(ports["api"])
            at = f"127.0.0.1:{ports['api']}"
            self._plane.write_kubeconfig(self.kubeconfig, at, "admin", self.context)
            self.apply(MANIFESTS / "capacity.yaml")
        with step("images"):
            node.service("containerd", ["containerd"])
            retry("containerd", lambda: node.listens(Path("/run/containerd/containerd.sock")))
            retry("registry", self.authority.stat)
            oci.load(node, images(self.authority))
        # Kubernetes' times are whole seconds.
        since = float(int(time.time()))
        with step("node"):
            # Before there are pods.
            admin = self._plane.kubeconfig("admin")
            policies.enforce(node, self._programs["network-policies"], admin)
            self._start_kubelet()
            retry("kubelet", lambda: self._expect_node(since))
        with step("DNS and load balancer"):
            self._apply_addons()
            for namespace, number in PODS.items():
                retry("kubelet", partial(self._expect_pods, namespace, number, since))

    def _apply_addons(self) -> None:
        files = [MANIFESTS / "coredns.yaml", *self._addons]
        digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        # Beside etcd's data. Applying the same again makes the API server work, and grow.
        applied = self.folder / "disk" / "addons"
        if not applied.exists() or applied.read_text() != digest:
            for file in files:
                self.apply(file)
            applied.write_text(digest)

    def _start_registry(self) -> None:
        self.authority.parent.mkdir(exist_ok=True)
        self.authority.unlink(missing_ok=True)
        module = [sys.executable, "-m", registry.__name__]
        folder = str(self.authority.parent)
        self.node.bound("registry", [*module, str(self.holders["lan"]), folder])

    def _start_kubelet(self) -> None:
        kube, node, plane = self._programs["kube"], self.node, self._plane
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
            f"--cluster-cidr={policies.PODS}",
            # These are read-only outside the machine's own network namespace.
            *("--conntrack-max-per-core=0", "--conntrack-min=0"),
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]
        node.service("proxy", [kube, "proxy", *proxy])

    def _relay(self, name: str, where: str, target: str) -> None:
        """Let the port `name` of 127.0.0.1 lead to `target`, as if asked from `where`."""
        way = f"{self.ports[name]}={target}"
        script = [sys.executable, relay.__file__, str(self.holders[where]), way]
        self.node.bound(f"relay-{name}", script)

    def _expect_node(self, since: float) -> None:
        """Raise ConnectionError unless the node says, after a time, that it is ready."""
        (node,) = self._list("Node", None, 1)
        for condition in node["status"].get("conditions") or []:
            ready = condition["type"] == "Ready" and condition["status"] == "True"
            if ready and _seconds(condition["lastHeartbeatTime"]) >= since:
                return
        raise ConnectionError(f"{self.node.name} is not ready")

    def _expect_pods(self, namespace: str, number: int, since: float) -> None:
        """Raise ConnectionError unless so many pods are ready, started after a time."""
        for pod in self._list("Pod", namespace, number):
            for container in pod["status"].get("containerStatuses") or [{"ready": False}]:
                running = container["ready"] and container["state"].get("running")
                if not running or _seconds(running["startedAt"]) < since:
                    raise ConnectionError(f"{pod['metadata']['name']} is not ready")

    def _list(self, kind: str, namespace: str | None, number: int) -> list[dict[str, Any]]:
        """Give all objects of a kind; raise ConnectionError if it cannot, or there are fewer."""
        try:
            resource = self.client().resources.get(api_version="v1", kind=kind)
            items: list[dict[str, Any]] = resource.get(namespace=namespace).to_dict()["items"]
        except (ApiException, HTTPError) as error:
            raise ConnectionError(str(error).partition("\n")[0]) from error
        if len(items) < number:
            raise ConnectionError(f"{kind}: {len(items)} of {number}")
        return items


def _seconds(time_of_day: str) -> float:
    return datetime.fromisoformat(time_of_day).timestamp()
