"""Answers as registry.ollama.ai, on this machine, with one model for every name.

Run as a module: python -m sandbox.model_registry PID FOLDER is at 203.0.113.10 in the network
namespace of a process; FOLDER gets the certificate of its authority, registry.pem.
"""

import hashlib
import json
import re
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from sandbox import tiny_model
from sandbox.network import REGISTRY, enter

HOST = "registry.ollama.ai"
# As with the real one, the files lie on another host, to which the registry sends its clients.
FILES = "files.invalid"
KIND = "application/vnd.ollama.image"
CONFIG = {
    "model_format": "gguf",
    "model_family": "llama",
    "model_families": ["llama"],
    "file_type": "F32",
    "architecture": "amd64",
    "os": "linux",
}
# Noise has no end of its own; and two threads would wait for each other longer than they work.
PARAMS = {"num_predict": 64, "num_thread": 1}


@contextmanager
def model_registry(
    folder: Path,
    missing: str = "missing",
    contents: Mapping[str, str] | None = None,
    before: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False,
    at: str = "",
) -> Iterator[dict[str, str]]:
    """Serve a tiny model of its own under every name but those that contain `missing`.

    Gives the environment with which a Go program comes here instead: a proxy, and whom to trust.
    `contents` are names that stand for another content than a model's own name does; `before`
    sees each request, and says whether it has answered it. With an address `at` it is the host
    itself, not behind a proxy.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, FILES).configure_cert(context)
    authority.cert_pem.write_to_path(str(folder / "registry.pem"))
    blobs: dict[str, bytes] = {}

    def layer(kind: str, content: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def manifest(name: str) -> dict[str, Any]:
        file = folder / f"{name.replace('/', '-')}.gguf"
        # A byte is a token here: with its whole context, a document would take an hour.
        context = 64 if "embed" in name else tiny_model.CONTEXT
        tiny_model.write(file, (contents or {}).get(name, name), context)
        config = layer(
            "application/vnd.docker.container.image.v1+json", json.dumps(CONFIG).encode()
        )
        layers = [
            layer(f"{KIND}.model", file.read_bytes()),
            layer(f"{KIND}.template", b"{{ .Prompt }}"),
            layer(f"{KIND}.params", json.dumps(PARAMS).encode()),
        ]
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        return {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            """Take the connection as if it had arrived."""
            self.send_response_only(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def do_GET(self) -> None:
            """Give a manifest, or a file, also in parts."""
            kind, _, name = self.path.rpartition("/")
            if before(self):
                return
            if kind.endswith("/manifests") and missing not in self.path:
                self.answer(200, json.dumps(manifest(kind.split("/")[-2])).encode())
            elif name in blobs and self.headers["Host"] == HOST and self.command == "GET":
                self.answer(307, b"", {"Location": f"https://{FILES}{self.path}"})
            elif name in blobs:
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = map(int, wanted.groups()) if wanted else (0, len(blobs[name]))
                self.answer(206 if wanted else 200, blobs[name][first : last + 1])
            else:
                self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')

        do_HEAD = do_GET  # noqa: N815

        def answer(self, status: int, body: bytes, more: Mapping[str, str] | None = None) -> None:
            self.send_response_only(status)
            for name, value in {**(more or {}), "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer((at, 443) if at else ("127.0.0.1", 0), Handler)
    if at:
        # Each connection's thread shakes hands, not the one that takes them all.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "HTTPS_PROXY": f"http://127.0.0.1:{server.server_port}",
            "SSL_CERT_FILE": str(folder / "registry.pem"),
        }
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    enter(sys.argv[1])
    with model_registry(Path(sys.argv[2]), at=REGISTRY):
        signal.pause()
