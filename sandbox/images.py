"""The images of the pods, made of Debian, PyPI and the programs built from Go modules."""

import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from config.versions import GATEWAY_IMAGE, OLLAMA_IMAGE, OPEN_WEBUI_IMAGE, RESTIC_IMAGE
from sandbox.build import FOLDER
from sandbox.cache import artefact
from sandbox.oci import Image
from sandbox.toolchain import pinned, run

TABLE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
LOGS = FOLDER / "logs"
SUITE = "bookworm"
# renovate: datasource=docker depName=registry.k8s.io/pause
PAUSE = "registry.k8s.io/pause:3.10.1"
DEBIAN = f"debian:{SUITE}"
# The same as in manifests/coredns.yaml and go/coredns.
# renovate: datasource=docker depName=registry.k8s.io/coredns/coredns
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
# Open WebUI is installed for Debian's own Python.
PATH = "PATH=/opt/open-webui/bin:/usr/local/bin:/usr/bin:/bin"
# renovate: datasource=pypi depName=open-webui
OPEN_WEBUI = "0.12.4"
PACKAGES = "busybox-static,ca-certificates,python3,python3-venv"
METALLB = pinned("metallb", "go.universe.tf/metallb")
ADDONS = {
    COREDNS: "coredns",
    f"quay.io/metallb/controller:{METALLB}": "metallb-controller",
    f"quay.io/metallb/speaker:{METALLB}": "metallb-speaker",
}
PROGRAMS = {**ADDONS, OLLAMA_IMAGE: "ollama", RESTIC_IMAGE: "restic", **TABLE["programs"]}
"""Images that are made of a program on Debian."""
PAGES = {OPEN_WEBUI_IMAGE, GATEWAY_IMAGE}
PLACEHOLDERS = TABLE["placeholders"]
PUBLISHED = (PAUSE, *PROGRAMS, *sorted(PAGES), *PLACEHOLDERS)
NAMES = (DEBIAN, *PUBLISHED)
"""Names of all images; a pod of Debian is for looking around."""
SYSTEM = (PAUSE, DEBIAN, *ADDONS)
"""Names of the images of the cluster's own pods."""


def image(name: str, programs: Mapping[str, Path]) -> Image:
    """Return one of the images NAMES, made of `programs` by name."""
    if name == PAUSE:
        files = [layer(programs["pause"], "pause")]
        return Image(name, files, {"Entrypoint": ["/pause"]}, "20 lines of Go")
    layers, environment = [base()], [PATH]
    config: dict[str, list[str]] = {"Env": environment, "Cmd": ["sh"]}
    difference = ""
    if name in PROGRAMS:
        program = programs[PROGRAMS[name]]
        layers.append(layer(program, f"usr/bin/{program.name}"))
        config["Entrypoint"] = [f"/usr/bin/{program.name}"]
        config["Cmd"] = ["serve"] if name == OLLAMA_IMAGE else []
        difference = "built from its Go module, on Debian"
    elif name in PAGES:
        layers.append(open_webui())
        config["Cmd"] = ["open-webui", "serve", "--host", "0.0.0.0", "--port", "8080"]
        # As in the published image.
        environment += ["ENV=prod", "PYTHONUNBUFFERED=1", "HOME=/tmp"]
        difference = "Debian's Python; without the packages for PDF, Office and speech"
    elif name in PLACEHOLDERS:
        layers.append(layer(Path(__file__).with_name("placeholder.py"), "placeholder.py"))
        config["Entrypoint"] = ["python3", "/placeholder.py", *PLACEHOLDERS[name]]
        config["Cmd"] = []
        difference = "a placeholder that answers probes"
    return Image(name, layers, config, difference)


def trusting(ollama: Image, authority: Path) -> Image:
    """Return Ollama's image with the certificate `authority` of the model registry here."""
    # Not in the cache, because each start has another certificate.
    certificate = _archive(authority, "etc/registry.pem", authority.with_suffix(".tar"))
    environment = [*ollama.config.get("Env", ()), "SSL_CERT_FILE=/etc/registry.pem"]
    also = "trusts the model registry here"
    return replace(
        ollama,
        layers=[*ollama.layers, certificate],
        config={**ollama.config, "Env": environment},
        difference=f"{ollama.difference}; for the CPU; {also}" if ollama.difference else also,
    )


def base() -> Path:
    """Return the layer with Debian."""
    words = ("--variant=minbase", f"--include={PACKAGES}", "--format=tar", SUITE)

    def make(layer: Path) -> None:
        run("Debian", ["mmdebstrap", *words, layer], LOGS / "build-base.log", FOLDER)

    return artefact("debian.tar", make, (), *words)


def open_webui() -> Path:
    """Return the layer with Open WebUI in /opt/open-webui, for the Python of the base."""
    script, below = Path(__file__).with_name("open-webui.sh"), base()
    packages = [f"open-webui=={OPEN_WEBUI}", *TABLE["beyond_slim"]]
    alone = ["unshare", "--mount", "--propagation", "private", str(script)]

    def make(layer: Path) -> None:
        command: list[str | Path] = [*alone, below, layer, *packages]
        run("Open WebUI", command, LOGS / "build-open-webui-image.log", FOLDER)

    return artefact("open-webui.tar", make, [script], below.name, *packages)


def python() -> Path:
    """Return the Python of Open WebUI's image, unpacked: it runs without a container or root.

    Its scripts name a folder of the image: run them by that Python.
    """
    layers, python = [base(), open_webui()], "opt/open-webui/bin/python3"
    script = Path(__file__).with_name("python-in-place.sh")

    def make(root: Path) -> None:
        root.mkdir()
        for layer, content in zip(layers, (["./usr/bin/python3*", "./usr/lib"], []), strict=True):
            command: list[str | Path] = ["tar", "-xf", layer, "-C", root, "--wildcards", *content]
            run("Open WebUI", command, LOGS / "build-open-webui-root.log", FOLDER)
        (root / python).unlink()
        shutil.copy(script, root / python)

    names = [layer.name for layer in layers]
    return artefact("open-webui-root", make, [script], *names) / python


def layer(file: Path, path: str) -> Path:
    """Return a layer that has `file` at `path`."""
    # A link's target is a built program, whose name is the digest of its inputs.
    content = () if file.is_symlink() else (file,)
    name = file.resolve().name
    return artefact(f"{file.name}.tar", partial(_archive, file, path), content, path, name)


def _archive(file: Path, path: str, layer: Path) -> Path:
    """Write `file` as `path` to a layer that is the same whoever writes it, and when."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755
        return entry

    with tarfile.open(layer, "w") as tar:
        tar.add(file.resolve(), path, filter=anonymous)
    return layer
