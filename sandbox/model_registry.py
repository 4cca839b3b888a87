"""A registry in place of registry.ollama.ai, with a tiny model under every name.

Run as a module: python -m sandbox.model_registry FOLDER serves at 203.0.113.10, and writes its
authority's certificate to FOLDER/registry.pem.
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
from sandbox.network import REGISTRY

HOST = "registry.ollama.ai"
# The real registry redirects to another host for files, too.
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
# Random weights never predict an end; a second thread costs more than it computes.
PARAMS = {"num_predict": 64, "num_thread": 1}


@contextmanager
def model_registry(
    folder: Path,
    missing: str = "missing",
    contents: Mapping[str, str] | None = None,
    before: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False,
    at: str = "",
) -> Iterator[dict[str, str]]:
    """Serve a tiny model under every name but those that contain `missing`.

    Yields the environment that leads a Go program here: a proxy, and the authority to trust.
    `contents` replaces the content of a model, which is its name; `before` gets each request, and
    returns whether it has answered it. With an address `at`, it listens there, without a proxy.
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
        # A token is a byte: with the whole context, embedding a document takes an hour.
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
            """Serve the proxied connection itself."""
            self.send_response_only(200)
            self.end_headers()
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def do_GET(self) -> None:
            """Send a manifest, or a file, or a range of it."""
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
        # The thread of each connection does the handshake, not the one that accepts all.
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
    with model_registry(Path(sys.argv[1]), at=REGISTRY):
        signal.pause()
