"""Container images of plain tar files as layers, imported as an OCI archive.

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
    """An image under the `name` in pods, made here of tar files."""

    name: str
    layers: Sequence[Path]
    config: Mapping[str, Any] = field(default_factory=dict)
    """OCI's configuration of its containers: `Entrypoint`, `Env` …"""
    difference: str = ""
    """How it differs from the published image."""


def reference(name: str) -> str:
    """Return containerd's name of the image that a pod calls `name`."""
    name, _, digest = name.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not {".", ":"} & set(first):
        name = f"docker.io/{name}"
    # With a digest, containerd ignores the tag.
    return f"{name.rpartition(':')[0]}@{digest}" if digest else name


def load(node: Node, images: Iterable[Image]) -> list[str]:
    """Import the images that the node's containerd lacks; returns their names."""
    rows = [line.split() for line in node.run(*CTR, "list").splitlines()[1:]]
    present = {row[0]: row[2] for row in rows}
    described = [(image, *_describe(image)) for image in images]
    new = [row for row in described if present.get(reference(row[0].name)) != row[1]["digest"]]
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
            raise SandboxError(f"images: containerd imported none: {error.strip()[-300:]}")
    return [reference(image.name) for image, *_ in new]


def digest(file: Path) -> str:
    """Return the digest of a layer, which is cached beside it."""
    cached = file.with_name(f"{file.name}.sha256")
    if not cached.exists() or cached.stat().st_mtime_ns < file.stat().st_mtime_ns:
        partial = cached.with_name(f".{cached.name}.{os.getpid()}")
        with file.open("rb") as content:
            partial.write_text(f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}")
        partial.replace(cached)
    return cached.read_text()


def _describe(image: Image) -> tuple[dict[str, Any], list[bytes]]:
    """Return an image's entry in the index, and its manifest and configuration."""
    digests = [digest(layer) for layer in image.layers]
    platform_ = {"architecture": ARCHITECTURES[platform.machine()], "os": "linux"}
    roots = {"type": "layers", "diff_ids": digests}
    config = json.dumps({**platform_, "config": dict(image.config), "rootfs": roots}).encode()
    layers = [
        {"mediaType": f"{MEDIA}.layer.v1.tar", "digest": of, "size": path.stat().st_size}
        for path, of in zip(image.layers, digests, strict=True)
    ]
    kind = f"{MEDIA}.manifest.v1+json"
    described = _descriptor(f"{MEDIA}.config.v1+json", config)
    content = {"schemaVersion": 2, "mediaType": kind, "config": described, "layers": layers}
    manifest = json.dumps(content).encode()
    named = {"io.containerd.image.name": reference(image.name)}
    entry = {**_descriptor(kind, manifest), "platform": platform_, "annotations": named}
    return entry, [manifest, config]


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    of = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": kind, "digest": of, "size": len(content)}


def _write(images: Sequence[tuple[Image, dict[str, Any], list[bytes]]], archive: IO[bytes]) -> None:
    index = {"schemaVersion": 2, "manifests": [entry for _, entry, _ in images]}
    texts = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
    }
    for text in (text for *_, blobs in images for text in blobs):
        texts[f"blobs/sha256/{hashlib.sha256(text).hexdigest()}"] = text
    layers = {digest(layer): layer for image, *_ in images for layer in image.layers}
    with tarfile.open(fileobj=archive, mode="w|") as tar:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
        for of, layer in layers.items():
            with layer.open("rb") as content:
                tar.addfile(
                    tar.gettarinfo(arcname=f"blobs/{of.replace(':', '/')}", fileobj=content),
                    content,
                )
