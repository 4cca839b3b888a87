"""The control plane: etcd, API server, controllers and scheduler, from the program `kube`."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template

import trustme
import yaml

from sandbox.addons import MANIFESTS
from sandbox.processes import Processes, probe, write_private

NAMES = (
    "127.0.0.1",
    "10.152.183.1",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
"""Names of the API server in its certificate, besides its address."""
IDENTITIES = {
    "admin": ("admin", "system:masters"),
    "apiserver": ("kube-apiserver", "system:masters"),
    "proxy": ("system:kube-proxy", "system:kube-proxy"),
}
"""User and group of each client but the kubelets, by which RBAC decides."""


def flags(process: str, values: Mapping[str, object]) -> list[str]:
    """Return the flags of a process of the cluster, with `values` in place of their names."""
    lines = yaml.safe_load((MANIFESTS / "flags.yaml").read_text())[process].items()
    return [f"--{flag}={Template(str(value)).substitute(values)}" for flag, value in lines]


class ControlPlane:
    """Four processes that `run` starts by name and command, with keys in `folder/certificates`.

    `folder/kubeconfig` is the administrator's, with the context `context`; `data` is etcd's folder;
    `nodes` are the names of nodes whose kubelets have an identity of that name.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        run: Callable[[str, Sequence[str | Path]], object],
        kube: Path,
        data: Path,
        context: str,
        nodes: Sequence[str] = (),
    ) -> None:
        self._folder, self._keys, self._context = folder, folder / "certificates", context
        self._processes, self._run, self._kube = processes, run, kube
        self._data = data
        self._identities = IDENTITIES | {
            node: (f"system:node:{node}", "system:nodes") for node in nodes
        }
        self.authority = self._keys / "authority.crt"
        """Certificate of the authority that signs all others."""

    def start(
        self,
        address: str,
        ports: Mapping[str, int],
        reached_at: int,
        bind: str,
        controllers: Sequence[str] = (),
    ) -> None:
        """Start all processes and write the kubeconfigs; raises SandboxError.

        `ports` are those of `etcd`, its `peers` and `apiserver`. The API server advertises
        `address`, listens on `bind`, and is reached at the port `reached_at` of 127.0.0.1 from
        outside.
        `controllers` are further flags of the controllers.
        """
        self._issue_certificates(address)
        kube = self._kube
        values = {**ports, "address": address, "bind": bind, "keys": self._keys}
        etcd, peers = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peers"))
        self._run("etcd", [kube, "etcd", self._data, etcd, peers])
        self._run("apiserver", [kube, "apiserver", *flags("apiserver", values)])
        self._processes.retry("apiserver", partial(self.probe, reached_at), beside=["etcd"])
        for name in self._identities:
            self.write_kubeconfig(self.kubeconfig(name), f"{bind}:{ports['apiserver']}", name)
        self.write_kubeconfig(self._folder / "kubeconfig", f"127.0.0.1:{reached_at}")
        self._run("controllers", [kube, "controllers", *flags("controllers", values), *controllers])
        self._run("scheduler", [kube, "scheduler", *flags("scheduler", values)])

    def probe(self, port: int) -> None:
        """Raise one of FAILURES unless the API server is ready at `port` of 127.0.0.1."""
        probe(f"https://127.0.0.1:{port}/readyz", self.authority)

    @property
    def kubectl(self) -> list[str]:
        """Command line of kubectl, as the administrator."""
        at = (f"--kubeconfig={self._folder / 'kubeconfig'}", f"--context={self._context}")
        return [str(self._kube), "kubectl", *at, f"--cache-dir={self._folder / 'discovery'}"]

    def kubeconfig(self, name: str) -> Path:
        """Return the kubeconfig of one of IDENTITIES or a node, for use in the cluster."""
        return self._keys / f"{name}.kubeconfig"

    def write_kubeconfig(
        self, file: Path, server: str, name: str = "admin", account: str = ""
    ) -> None:
        """Write a kubeconfig of one of IDENTITIES, which acts as `account` if that is given.

        `server` is host and port of the API server.
        """
        template = Template((MANIFESTS / "kubeconfig.yaml").read_text())
        values = {"context": self._context, "keys": self._keys, "name": name, "account": account}
        write_private(file, template.substitute(values, server=server))

    def _issue_certificates(self, address: str) -> None:
        """Issue all certificates once, because the tokens of pods are signed with their keys."""
        if self.authority.exists():
            return
        self._keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = trustme.CA()
        issued = {"server": authority.issue_cert(*NAMES, address)}
        for name, (user, group) in self._identities.items():
            # trustme wants a host name in a client's certificate, too.
            issued[name] = authority.issue_cert(
                "client.invalid", common_name=user, organization_name=group
            )
        for name, pair in issued.items():
            pair.cert_chain_pems[0].write_to_path(str(self._keys / f"{name}.crt"))
            write_private(self._keys / f"{name}.key", pair.private_key_pem.bytes().decode())
        # Last, because its existence marks the others as complete.
        authority.cert_pem.write_to_path(str(self.authority))
