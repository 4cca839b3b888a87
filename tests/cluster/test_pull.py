"""Published images are pulled by skopeo from any registry that answers."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandbox.pull import published

pytestmark = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed")

CONFIG = {"Entrypoint": ["/hello"], "Env": ["A=b"], "User": "1000"}
TYPE = "application/vnd.oci.image"


def digest(content: bytes) -> str:
    """Return a blob's digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer() -> bytes:
    """Return a tar file with one file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("hello"))
    return archive.getvalue()


class Registry(ThreadingHTTPServer):
    """Serves one image under the name `quay.io/here`, and nothing else."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        packed = gzip.compress(layer())
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": CONFIG,
                "rootfs": {"type": "layers", "diff_ids": [digest(layer())]},
            }
        ).encode()
        descriptors = [
            {"mediaType": f"{TYPE}.{kind}", "digest": digest(content), "size": len(content)}
            for kind, content in (("config.v1+json", config), ("layer.v1.tar+gzip", packed))
        ]
        manifest = {"schemaVersion": 2, "config": descriptors[0], "layers": descriptors[1:]}
        self.manifest = json.dumps({**manifest, "mediaType": f"{TYPE}.manifest.v1+json"}).encode()
        self.blobs = {digest(content): content for content in (config, packed)}
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers as https://github.com/opencontainers/distribution-spec says."""

    server: Registry

    def do_GET(self) -> None:
        """Send the manifest or a blob."""
        self.server.requests.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path == "/v2/":
            self.answer(200, b"{}")
        elif self.path.startswith("/v2/quay.io/here/manifests/"):
            self.answer(200, self.server.manifest, f"{TYPE}.manifest.v1+json")
        elif name in self.server.blobs:
            self.answer(200, self.server.blobs[name])
        else:
            self.answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}')

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """Send a whole response."""
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The only registry that skopeo reaches, in place of two; the cache is empty."""
    server = Registry()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path / "home"
    settings = home / ".config" / "containers" / "registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        "".join(
            f'[[registry]]\nprefix = "{name}"\ninsecure = true\n'
            f'location = "127.0.0.1:{server.server_port}/{name}"\n'
            for name in ("quay.io", "docker.io")
        )
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HOMELAB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_an_image_is_pulled_once_and_its_layers_are_plain_tar_files(registry: Registry) -> None:
    name = f"quay.io/here:1@{digest(registry.manifest)}"
    image = published([name])[name]
    assert [path.read_bytes() for path in image.layers] == [layer()]
    assert (image.name, image.config, image.difference) == (name, CONFIG, "")

    registry.requests.clear()
    assert published([name]) == {name: image}
    assert not registry.requests


def test_a_registry_that_refuses_is_asked_once(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["restic/restic:1", "docker.io/grafana/grafana:1", "quay.io/here:1"]
    assert list(published(names)) == ["quay.io/here:1"]
    assert not [path for path in registry.requests if "grafana" in path]
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "  docker.io            not pulled: unknown"
