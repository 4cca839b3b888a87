"""The published images, pulled by skopeo from the registries that answer."""

import json
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from sandbox.build import FOLDER
from sandbox.cache import artefact
from sandbox.oci import Image
from sandbox.processes import SandboxError
from sandbox.toolchain import run

# Without signatures, which these registries do not publish.
SKOPEO = ("skopeo", "--insecure-policy")
# Seconds for a first answer; a network that drops packets would take minutes.
PATIENCE = 10


def published(names: Iterable[str]) -> dict[str, Image]:
    """Return the images that can be pulled, or were pulled before, by name.

    A registry that has refused an image is not asked for another.
    """
    images, refused = {}, set()
    for name in names:
        registry = reference(name).partition("/")[0]
        if registry in refused:
            continue
        try:
            images[name] = _image(name)
        except SandboxError as error:
            refused.add(registry)
            print(f"  {registry:<20} not pulled: {error}", flush=True)
    return images


def reference(name: str) -> str:
    """Return the image that a pod calls `name`, with its registry, and without tag if pinned."""
    name, _, digest = name.partition("@")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not {".", ":"} & set(first):
        name = f"docker.io/{name}"
    # skopeo refuses a name with both.
    return f"{name.rpartition(':')[0]}@{digest}" if digest else name


def _image(name: str) -> Image:
    folder = artefact("image", partial(_pull, reference(name)), (), reference(name))
    manifest = json.loads((folder / "manifest.json").read_text())

    def blob(entry: dict[str, str]) -> Path:
        return folder / entry["digest"].removeprefix("sha256:")

    config = json.loads(blob(manifest["config"]).read_text())["config"]
    return Image(name, [blob(entry) for entry in manifest["layers"]], config)


def _pull(name: str, folder: Path) -> None:
    source = f"docker://{name}"
    inspect = [*SKOPEO, "--command-timeout", f"{PATIENCE}s", "inspect", "--raw", source]
    answer = subprocess.run(inspect, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SandboxError(answer.stderr.strip().rpartition(": ")[2].rstrip('"'))
    # The digest of a layer is then that of its tar file, as oci.py writes it.
    copy = [*SKOPEO, "copy", "--quiet", "--dest-decompress", source, f"dir:{folder}"]
    label = name.partition("@")[0].rpartition("/")[2]
    log = FOLDER / "logs" / f"pull-{label.partition(':')[0]}.log"
    run(label, copy, log, FOLDER, verbs=("pulling", "pulled"))
