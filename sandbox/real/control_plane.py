"""The control plane, in the node's own namespaces, so that it reaches pods and they reach it."""

import contextlib
import http.client
import json
import ssl
from base64 import b64encode
from pathlib import Path

import trustme

from sandbox.processes import write_private
from sandbox.real.node import Node

PORT = 16443
SERVICES = "10.152.183.0/24"
NAMES = (
    "127.0.0.1",
    "10.152.183.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
"""What the API server is called, beside its address."""
# Who they are, and in which group: what RBAC and the node authorizer go by.
IDENTITIES = {
    "admin": ("admin", "system:masters"),
    "apiserver": ("kube-apiserver", "system:masters"),
    "proxy": ("system:kube-proxy", "system:kube-proxy"),
    "kubelet": ("system:node:{node}", "system:nodes"),
}


class ControlPlane:
    """etcd, API server, controllers and scheduler on `node`, from the program `kube`."""

    def __init__(self, node: Node, kube: Path) -> None:
        self._node, self._kube = node, kube
        self._folder = node.folder / "certificates"

    def start(self, port: int) -> None:
        """Start all of them; etcd has what it had before. `port` of 127.0.0.1 leads to PORT."""
        self._certify()
        node, kube, keys = self._node, self._kube, self._folder
        etcd = "http://127.0.0.1:2379"
        data = node.folder / "disk" / "etcd"
        node.service("etcd", [kube, "etcd", data, etcd, "http://127.0.0.1:2380"])
        serve = [
            f"--etcd-servers={etcd}",
            f"--secure-port={PORT}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={node.address}",
            f"--tls-cert-file={keys / 'server.crt'}",
            f"--tls-private-key-file={keys / 'server.key'}",
            f"--client-ca-file={self.authority}",
            f"--kubelet-client-certificate={keys / 'apiserver.crt'}",
            f"--kubelet-client-key={keys / 'apiserver.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'server.key'}",
            f"--service-account-signing-key-file={keys / 'server.key'}",
            f"--service-cluster-ip-range={SERVICES}",
        ]
        node.service("apiserver", [kube, "apiserver", *serve])
        node.processes.retry("apiserver", lambda: self._ask(port))
        for name in IDENTITIES:
            self.write_kubeconfig(self.kubeconfig(name), f"{node.address}:{PORT}", name)
        client = [f"--kubeconfig={self.kubeconfig('admin')}"]
        quiet = ["--leader-elect=false", "--secure-port=0"]
        trust = [
            f"--root-ca-file={self.authority}",
            f"--service-account-private-key-file={keys / 'server.key'}",
        ]
        node.service("controllers", [kube, "controllers", *client, *quiet, *trust])
        node.service("scheduler", [kube, "scheduler", *client, *quiet])

    @property
    def authority(self) -> Path:
        """The file with the certificate of the authority that signs all others."""
        return self._folder / "authority.crt"

    def kubeconfig(self, name: str) -> Path:
        """Give the kubeconfig of one of IDENTITIES, for use in the node."""
        return self._folder / f"{name}.kubeconfig"

    def write_kubeconfig(self, file: Path, at: str, name: str, context: str = "node") -> None:
        """Write a kubeconfig of one of IDENTITIES for the server `at` a host and port."""

        def read(file: str) -> str:
            return b64encode((self._folder / file).read_bytes()).decode()

        trust = {"certificate-authority-data": read("authority.crt")}
        user = {
            "client-certificate-data": read(f"{name}.crt"),
            "client-key-data": read(f"{name}.key"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": context, "cluster": {"server": f"https://{at}", **trust}}],
            "users": [{"name": context, "user": user}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        }
        write_private(file, json.dumps(content, indent=1))

    def _ask(self, port: int) -> None:
        """Raise OSError unless the API server says that it is ready."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self._folder / "admin.crt", self._folder / "admin.key")
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/readyz")
            if (status := connection.getresponse().status) != 200:
                raise ConnectionError(f"/readyz answers {status}")

    def _certify(self) -> None:
        """Make keys and certificates, unless they are there: pods have tokens signed with them."""
        if self.authority.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA()
        issued = {"server": authority.issue_cert(*NAMES, self._node.address)}
        for file, (user, group) in IDENTITIES.items():
            common_name = user.format(node=self._node.name)
            # A certificate has to have a name of a host, too.
            issued[file] = authority.issue_cert(
                "client.invalid", common_name=common_name, organization_name=group
            )
        for file, pair in issued.items():
            pair.cert_chain_pems[0].write_to_path(str(self._folder / f"{file}.crt"))
            write_private(self._folder / f"{file}.key", pair.private_key_pem.bytes().decode())
        # Last: it says that the others are there.
        authority.cert_pem.write_to_path(str(self.authority))
