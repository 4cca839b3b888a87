"""The few requests that starting a cluster takes, checked against the server's own certificate."""

import base64
import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""What a request raises when there is no good answer."""


def arguments(certificates: Path) -> list[str]:
    """Give the flags that every server here has, with `certificates` as the folder for its own."""
    # It makes this key for its certificate before it looks for the one that signs accounts.
    key = certificates / "apiserver.key"
    return [
        "--bind-address=127.0.0.1",
        f"--cert-dir={certificates}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        # MicroK8s' own range.
        "--service-cluster-ip-range=10.152.183.0/24",
    ]


class ApiServer:
    """The API server on `port` of 127.0.0.1, asked as the owner of `token`."""

    def __init__(self, port: int, certificate: Path, token: str) -> None:
        self._port = port
        self._certificate = certificate
        self._token = token

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """Give the answer to one request; raise ConnectionError with status and text if refused."""
        verified = ssl.create_default_context(cafile=str(self._certificate))
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        # Not urllib: it would go through a proxy that the environment names. Ten seconds: the
        # first answers of a busy machine take two.
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=10, context=verified
        )
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 300:
            message = f"{method} {path}: {answer.status} {text[:300].decode(errors='replace')}"
            raise ConnectionError(message)
        return text

    def read(self, path: str) -> Any:
        """Give the object or list at `path`."""
        return json.loads(self.ask("GET", path))

    def apply(self, path: str, content: bytes | Mapping[str, Any]) -> None:
        """Apply one object, as YAML or as a mapping, at its own `path`, on the server's side."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        path = f"{path}?fieldManager=homelab-sandbox&force=true"
        self.ask("PATCH", path, body, "application/apply-patch+yaml")

    def expect(self, path: str, condition: str) -> None:
        """Raise ValueError unless the object at `path` says that `condition` is true."""
        conditions = self.read(path).get("status", {}).get("conditions") or []
        if not any(one["type"] == condition and one["status"] == "True" for one in conditions):
            message = f"{path} is not {condition}"
            raise ValueError(message)

    def kubeconfig(self, context: str, account: str = "") -> str:
        """Give a kubeconfig, valid anywhere on this machine, that has `context` only.

        With an `account`, its owner acts as that one.
        """
        authority = base64.b64encode(self._certificate.read_bytes()).decode()
        server = f"https://127.0.0.1:{self._port}"
        cluster = {"server": server, "certificate-authority-data": authority}
        user = {"token": self._token, **({"as": account} if account else {})}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": context, "user": user}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        }
        return json.dumps(content, indent=1)


def probe(port: int, path: str) -> None:
    """Raise OSError unless `path` is well on the plain HTTP port of 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    if answer.status != 200:
        message = f"{path} answers {answer.status}"
        raise ConnectionError(message)
