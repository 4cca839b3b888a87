"""The control plane: etcd, API server, controllers and scheduler, from the program `kube`."""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import trustme

from sandbox.apiserver import ApiServer
from sandbox.processes import Processes, write_private

SERVICES = "10.152.183.0/24"
"""MicroK8s' own range."""
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
    """Four processes that `run` starts by name and command, with their keys in `folder`.

    `data` is etcd's folder; `node` is the one whose kubelet has an identity.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        run: Callable[[str, Sequence[str | Path]], object],
        kube: Path,
        data: Path,
        node: str = "",
    ) -> None:
        self._folder, self._data, self._node = folder / "certificates", data, node
        self._processes, self._run, self._kube = processes, run, kube

    def start(
        self,
        address: str,
        ports: Mapping[str, int],
        asked: int,
        bind: str = "0.0.0.0",
        controllers: Sequence[str] = (),
    ) -> None:
        """Start all of them; etcd has what it had before.

        `ports` are those of `etcd`, its `peers` and `apiserver`, which says that it is at
        `address`, listens at `bind`, and is asked at the port `asked` of 127.0.0.1. `controllers`
        are further flags for these. Raises SandboxError.
        """
        self._certify(address)
        kube, keys = self._kube, self._folder
        etcd, peers = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peers"))
        self._run("etcd", [kube, "etcd", self._data, etcd, peers])
        serve = [
            f"--etcd-servers={etcd}",
            f"--secure-port={ports['apiserver']}",
            f"--bind-address={bind}",
            # Asked for none, it looks for a default route, and ends without one.
            f"--advertise-address={address}",
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
        self._run("apiserver", [kube, "apiserver", *serve])
        api = self.api(asked)
        self._processes.retry("apiserver", lambda: api.ask("GET", "/readyz"), beside=["etcd"])
        for name in IDENTITIES:
            at = f"127.0.0.1:{ports['apiserver']}"
            write_private(self.kubeconfig(name), self.describe(at, "node", name))
        client = [f"--kubeconfig={self.kubeconfig('admin')}"]
        quiet = ["--leader-elect=false", "--secure-port=0"]
        trust = [
            f"--root-ca-file={self.authority}",
            f"--service-account-private-key-file={keys / 'server.key'}",
        ]
        self._run("controllers", [kube, "controllers", *client, *quiet, *trust, *controllers])
        self._run("scheduler", [kube, "scheduler", *client, *quiet])

    @property
    def authority(self) -> Path:
        """The file with the certificate of the authority that signs all others."""
        return self._folder / "authority.crt"

    def api(self, asked: int) -> ApiServer:
        """Give the API server at the port `asked` of 127.0.0.1, as the administrator."""
        return ApiServer(asked, self.authority, self._folder / "admin.pem")

    def kubeconfig(self, name: str) -> Path:
        """Give the kubeconfig of one of IDENTITIES, for use beside the control plane."""
        return self._folder / f"{name}.kubeconfig"

    def describe(self, at: str, context: str, name: str = "admin", account: str = "") -> str:
        """Give a kubeconfig of one of IDENTITIES for the server `at` a host and port.

        With an `account`, its owner acts as that one.
        """

        def read(file: str) -> str:
            return b64encode((self._folder / file).read_bytes()).decode()

        trust = {"certificate-authority-data": read("authority.crt")}
        user = {
            "client-certificate-data": read(f"{name}.crt"),
            "client-key-data": read(f"{name}.key"),
            **({"as": account} if account else {}),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": context, "cluster": {"server": f"https://{at}", **trust}}],
            "users": [{"name": context, "user": user}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        }
        return json.dumps(content, indent=1)

    def _certify(self, address: str) -> None:
        """Make keys and certificates, unless they are there: pods have tokens signed with them."""
        if self.authority.exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA()
        issued = {"server": authority.issue_cert(*NAMES, address)}
        for file, (user, group) in IDENTITIES.items():
            # A certificate has to have a name of a host, too.
            issued[file] = authority.issue_cert(
                "client.invalid",
                common_name=user.format(node=self._node),
                organization_name=group,
            )
        for file, pair in issued.items():
            pair.cert_chain_pems[0].write_to_path(str(self._folder / f"{file}.crt"))
            write_private(self._folder / f"{file}.key", pair.private_key_pem.bytes().decode())
        both = issued["admin"].private_key_and_cert_chain_pem.bytes().decode()
        write_private(self._folder / "admin.pem", both)
        # Last: it says that the others are there.
        authority.cert_pem.write_to_path(str(self.authority))
