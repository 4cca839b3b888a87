"""Container images: archives as OCI describes them, made of plain tar files as layers.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sandbox.node import Node
from sandbox.processes import SandboxError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MEDIA = "application/vnd.oci.image"
CTR = ("ctr", "--namespace", "k8s.io", "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image by the `name` that pods ask for, made of tar files and not the published one."""

    name: str
    layers: Sequence[Path]
    config: Mapping[str, Any] = field(default_factory=dict)
    """What a container of it runs by itself, in the words of OCI: `Entrypoint`, `Env` …"""
    difference: str = ""
    """How it differs from the published one."""


def reference(name: str) -> str:
    """Give the name under which containerd looks for the image that a pod calls `name`."""
    name, _, digest = name.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not {".", ":"} & set(first):
        name = f"docker.io/{name}"
    # By a digest it is found without its tag.
    return f"{name.rpartition(':')[0]}@{digest}" if digest else name


def load(node: Node, images: Iterable[Image]) -> list[str]:
    """Import into the node's containerd the images that it has not got; give their names."""
    rows = [line.split() for line in node.run(*CTR, "list").splitlines()[1:]]
    present = {row[0]: row[2] for row in rows}
    blobs = [_Blobs(image) for image in images]
    new = [one for one in blobs if present.get(one.name) != one.digest]
    if new:
        command = node.inside(*CTR, "import", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as importing:
            assert importing.stdin
            assert importing.stderr
            with importing.stdin as archive:
                _write(new, archive)
            error = importing.stderr.read().decode()
        if importing.returncode:
            raise SandboxError(f"images: containerd took none of them: {error.strip()[-300:]}")
    return [one.name for one in new]


def digest(file: Path) -> str:
    """Give the digest of a layer, which is kept beside it for the next time."""
    kept = file.with_name(f"{file.name}.sha256")
    if not kept.exists() or kept.stat().st_mtime_ns < file.stat().st_mtime_ns:
        partial = kept.with_name(f".{kept.name}.{os.getpid()}")
        with file.open("rb") as content:
            partial.write_text(f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}")
        partial.replace(kept)
    return kept.read_text()


class _Blobs:
    """Manifest and configuration of an image."""

    def __init__(self, image: Image) -> None:
        self.name, self.layers = reference(image.name), image.layers
        digests = [digest(layer) for layer in image.layers]
        self.platform = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
        roots = {"type": "layers", "diff_ids": digests}
        config = {**self.platform, "config": dict(image.config), "rootfs": roots}
        self.config = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", self.config),
            "layers": [
                {"mediaType": f"{MEDIA}.layer.v1.tar", "digest": of, "size": path.stat().st_size}
                for path, of in zip(image.layers, digests, strict=True)
            ],
        }
        self.manifest = json.dumps(manifest).encode()
        self.digest = _descriptor("", self.manifest)["digest"]

    def entry(self) -> dict[str, Any]:
        """Give what the index of an archive says of it."""
        named = {"io.containerd.image.name": self.name}
        described = _descriptor("manifest.v1+json", self.manifest)
        return {**described, "platform": self.platform, "annotations": named}


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    of = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": f"{MEDIA}.{kind}", "digest": of, "size": len(content)}


def _write(images: Sequence[_Blobs], archive: IO[bytes]) -> None:
    index = {"schemaVersion": 2, "manifests": [image.entry() for image in images]}
    layers = {digest(layer): layer for image in images for layer in image.layers}
    with tarfile.open(fileobj=archive, mode="w|") as tar:

        def add(name: str, size: int, content: IO[bytes]) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = size
            tar.addfile(entry, content)

        texts = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        texts["index.json"] = json.dumps(index).encode()
        for image in images:
            for text in (image.manifest, image.config):
                texts[f"blobs/sha256/{hashlib.sha256(text).hexdigest()}"] = text
        for name, text in texts.items():
            add(name, len(text), io.BytesIO(text))
        for of, layer in layers.items():
            with layer.open("rb") as content:
                add(f"blobs/{of.replace(':', '/')}", layer.stat().st_size, content)
