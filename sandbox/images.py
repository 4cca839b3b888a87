"""The images of the pods, made of Debian, PyPI and the programs built from Go modules."""

import tarfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from config.versions import GATEWAY_IMAGE, OLLAMA_IMAGE, OPEN_WEBUI_IMAGE, RESTIC_IMAGE
from sandbox.build import FOLDER
from sandbox.cache import artefact
from sandbox.oci import Image
from sandbox.programs import BEYOND_SLIM, INSTALL, OPEN_WEBUI
from sandbox.toolchain import pinned, run

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
PACKAGES = "busybox-static,ca-certificates,python3,python3-venv"
METALLB = pinned("metallb", "go.universe.tf/metallb")
ADDONS = {
    COREDNS: "coredns",
    f"quay.io/metallb/controller:{METALLB}": "metallb-controller",
    f"quay.io/metallb/speaker:{METALLB}": "metallb-speaker",
}
PROGRAMS = {
    **ADDONS,
    OLLAMA_IMAGE: "ollama",
    RESTIC_IMAGE: "restic",
    # Of the chart in the version of config/versions.py.
    "quay.io/prometheus-operator/prometheus-operator:v0.93.1": "prometheus-operator",
    "quay.io/prometheus-operator/prometheus-config-reloader:v0.93.1": "prometheus-config-reloader",
    "quay.io/prometheus/prometheus:v3.14.0-distroless": "prometheus",
    "quay.io/prometheus/alertmanager:v0.34.0": "alertmanager",
    "quay.io/prometheus/node-exporter:v1.12.1-distroless": "node_exporter",
    "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0": "kube-state-metrics",
}
"""Images that are made of a program on Debian."""
PAGES = {OPEN_WEBUI_IMAGE, GATEWAY_IMAGE}
PLACEHOLDERS = {
    "docker.io/grafana/grafana:13.2.0": ("Grafana", "3000"),
    "quay.io/kiwigrid/k8s-sidecar:2.10.1": ("k8s-sidecar",),
}
PUBLISHED = (PAUSE, *PROGRAMS, *sorted(PAGES), *PLACEHOLDERS)
NAMES = (DEBIAN, *PUBLISHED)
"""Names of all images; a pod of Debian is for looking around."""
SYSTEM = (PAUSE, DEBIAN, *ADDONS)
"""Names of the images of the cluster's own pods."""
STACK = {OLLAMA_IMAGE, RESTIC_IMAGE, *PAGES}
"""Names of the images of the namespace `ollama-stack`."""
# $1 the base, $2 a working folder, $3 the layer to write, $4 the script INSTALL, then its words.
# The upper folder of an overlay on the base has the files that INSTALL adds.
IN_BASE = r"""
base=$1 work=$2 layer=$3 install=$4; shift 4
rm -rf "$work"; mkdir -p "$work/base" "$work/upper" "$work/work" "$work/root"
tar -xf "$base" -C "$work/base"
cd "$work"
mount -t overlay -o lowerdir=base,upperdir=upper,workdir=work overlay root
for file in resolv.conf pip.conf ssl/certs; do
  if test -e "/etc/$file"; then
    test -d "/etc/$file" || touch "root/etc/$file"
    mount --bind "/etc/$file" "root/etc/$file"
  fi
done
mount -t proc proc root/proc
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PIP_NO_CACHE_DIR=1
chroot root sh -euc "$install" sh "$@"
tar --numeric-owner -C upper -cf "$layer" opt
cd /; umount -R "$work/root"; rm -rf "$work"
"""
# The Python of the unpacked image, with its own libraries on any machine.
IN_PLACE = r"""#!/bin/sh
root=${0%/*}/../../..
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
PYTHONHOME=$root/usr exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" \
  --argv0 "$0" "$root/usr/bin/python3" "$@"
"""


def image(name: str, programs: Mapping[str, Path]) -> Image:
    """Return one of the images NAMES, made of `programs` by name."""
    if name in PROGRAMS:
        program = programs[PROGRAMS[name]]
        path = f"usr/bin/{program.name}"
        arguments = {"Cmd": ["serve"]} if name == OLLAMA_IMAGE else {}
        return Image(
            name=name,
            layers=[base(), layer(program, path)],
            config={"Entrypoint": [f"/{path}"], "Env": [PATH], **arguments},
            difference="built from its Go module, on Debian",
        )
    if name in PAGES:
        return Image(
            name=name,
            layers=[base(), open_webui()],
            config={
                "Cmd": ["open-webui", "serve", "--host", "0.0.0.0", "--port", "8080"],
                # As in the published image.
                "Env": [PATH, "ENV=prod", "PYTHONUNBUFFERED=1", "HOME=/tmp"],
            },
            difference="Debian's Python; without the packages for PDF, Office and speech",
        )
    if name in PLACEHOLDERS:
        script = layer(Path(__file__).with_name("placeholder.py"), "placeholder.py")
        command = ["python3", "/placeholder.py", *PLACEHOLDERS[name]]
        return Image(
            name=name,
            layers=[base(), script],
            config={"Entrypoint": command, "Env": [PATH]},
            difference="a placeholder that answers probes",
        )
    if name == PAUSE:
        return Image(
            name=name,
            layers=[layer(programs["pause"], "pause")],
            config={"Entrypoint": ["/pause"]},
            difference="20 lines of Go",
        )
    return Image(name=DEBIAN, layers=[base()], config={"Cmd": ["sh"], "Env": [PATH]})


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
    below = base()
    install = [INSTALL, "python3", "/opt/open-webui", f"open-webui=={OPEN_WEBUI}", *BEYOND_SLIM]
    # In a mount namespace, so that a kill leaves no mount.
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", IN_BASE, "sh"]

    def make(layer: Path) -> None:
        command: list[str | Path] = [*alone, below, layer.with_name("work"), layer, *install]
        run("Open WebUI", command, LOGS / "build-open-webui-image.log", FOLDER)

    return artefact("open-webui.tar", make, (), below.name, IN_BASE, *install)


def python() -> Path:
    """Return the Python of Open WebUI's image, unpacked: it runs without a container or root.

    Its scripts name a folder of the image: run them by that Python.
    """
    layers = [base(), open_webui()]

    def make(root: Path) -> None:
        root.mkdir()
        for layer, content in zip(layers, (["./usr/bin/python3*", "./usr/lib"], []), strict=True):
            command: list[str | Path] = ["tar", "-xf", layer, "-C", root, "--wildcards", *content]
            run("Open WebUI", command, LOGS / "build-open-webui-root.log", FOLDER)
        program = root / "opt" / "open-webui" / "bin" / "python3"
        program.unlink()
        program.write_text(IN_PLACE)
        program.chmod(0o755)

    names = [layer.name for layer in layers]
    return artefact("open-webui-root", make, (), IN_PLACE, *names) / "opt/open-webui/bin/python3"


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
