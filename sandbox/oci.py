"""Container images of plain tar files as layers, imported as `docker save` writes them.

https://github.com/moby/moby/blob/v28.0.0/image/spec/spec.md
"""

import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sandbox.node import Node
from sandbox.processes import SandboxError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
IMPORT = ("ctr", "--namespace", "k8s.io", "images", "import", "-")


@dataclass(frozen=True, slots=True)
class Image:
    """An image under the `name` in pods, made here of tar files."""

    name: str
    layers: Sequence[Path]
    config: Mapping[str, Any] = field(default_factory=dict)
    """OCI's configuration of its containers: `Entrypoint`, `Env` …"""
    difference: str = ""
    """How it differs from the published image."""

    def description(self) -> str:
        """Return the image's configuration as JSON, which names its layers by their digests."""
        layers = {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]}
        machine = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
        return json.dumps({**machine, "config": dict(self.config), "rootfs": layers})


def load(node: Node, images: Sequence[Image]) -> None:
    """Import the images that the node's containerd lacks."""
    # On the disk of containerd, so that it is lost with the images.
    record = node.folder / "disk" / "images.json"
    imported = json.loads(record.read_text()) if record.exists() else {}
    described = {image.name: image.description() for image in images}
    new = [image for image in images if imported.get(image.name) != described[image.name]]
    if not new:
        return
    with subprocess.Popen(
        node.inside(*IMPORT),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # A group of its own, because its end at an interrupt would hide that.
        process_group=0,
    ) as importing:
        assert importing.stdin
        assert importing.stderr
        # If it ends early, its own words say why.
        with contextlib.suppress(BrokenPipeError), importing.stdin as archive:
            _write(new, archive)
        error = importing.stderr.read().decode()
    if importing.returncode:
        raise SandboxError(f"images: containerd imported none: {error.strip()[-300:]}")
    record.write_text(json.dumps({**imported, **described}))


def digest(file: Path) -> str:
    """Return the digest of a layer, which is cached beside it."""
    cached = file.with_name(f"{file.name}.sha256")
    if not cached.exists() or cached.stat().st_mtime_ns < file.stat().st_mtime_ns:
        partial = cached.with_name(f".{cached.name}.{os.getpid()}")
        with file.open("rb") as content:
            partial.write_text(f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}")
        partial.replace(cached)
    return cached.read_text()


def _write(images: Sequence[Image], archive: IO[bytes]) -> None:
    layers = {digest(layer): layer for image in images for layer in image.layers}
    manifest = [
        {
            "Config": f"{number}.json",
            "RepoTags": [image.name],
            "Layers": [digest(layer) for layer in image.layers],
        }
        for number, image in enumerate(images)
    ]
    texts = {f"{number}.json": image.description() for number, image in enumerate(images)}
    with tarfile.open(fileobj=archive, mode="w|") as tar:
        for name, text in {**texts, "manifest.json": json.dumps(manifest)}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
        for name, layer in layers.items():
            with layer.open("rb") as content:
                tar.addfile(tar.gettarinfo(arcname=name, fileobj=content), content)
