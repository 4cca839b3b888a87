"""The few requests that starting a cluster takes, checked against its authority's certificate."""

import contextlib
import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FAILURES = (OSError, http.client.HTTPException, ValueError)
"""What a request raises when there is no good answer."""


class ApiServer:
    """The API server on `port` of 127.0.0.1, asked as the owner of the keys in a file.

    `authority` is the file with the certificate of who has signed its own.
    """

    def __init__(self, port: int, authority: Path, keys: Path) -> None:
        self._port, self._authority, self._keys = port, authority, keys

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        """Give the answer to one request; raise ConnectionError with status and text if refused."""
        verified = ssl.create_default_context(cafile=str(self._authority))
        verified.load_cert_chain(self._keys)
        # Not urllib: it would go through a proxy that the environment names. Ten seconds: the
        # first answers of a busy machine take two.
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=10, context=verified
        )
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": kind})
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
