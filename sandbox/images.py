"""The images that pods run here, made from what package registries give."""

import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from config.versions import GATEWAY_IMAGE, OLLAMA_IMAGE, OPEN_WEBUI_IMAGE, RESTIC_IMAGE
from sandbox.build import METALLB
from sandbox.cache import artefact
from sandbox.oci import Image
from sandbox.programs import BEYOND_SLIM, INSTALL, OPEN_WEBUI
from sandbox.toolchain import pinned, run

SUITE = "bookworm"
# renovate: datasource=docker depName=registry.k8s.io/pause
PAUSE = "registry.k8s.io/pause:3.10.1"
DEBIAN = f"debian:{SUITE}"
# As in manifests/coredns.yaml and go/coredns.
# renovate: datasource=docker depName=registry.k8s.io/coredns/coredns
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
# Debian's own Python is the one that Open WebUI is installed for.
PATH = "PATH=/opt/open-webui/bin:/usr/local/bin:/usr/bin:/bin"
PACKAGES = "busybox-static,ca-certificates,python3,python3-venv"
# What the chart of the version in config/versions.py asks for, by the program that is in it.
MONITORING = {
    "quay.io/prometheus-operator/prometheus-operator:v0.93.1": "prometheus-operator",
    "quay.io/prometheus-operator/prometheus-config-reloader:v0.93.1": "prometheus-config-reloader",
    "quay.io/prometheus/prometheus:v3.14.0-distroless": "prometheus",
    "quay.io/prometheus/alertmanager:v0.34.0": "alertmanager",
    "quay.io/prometheus/node-exporter:v1.12.1-distroless": "node_exporter",
    "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0": "kube-state-metrics",
}
PLACEHOLDERS = {
    "docker.io/grafana/grafana:13.2.0": ("Grafana", "3000"),
    "quay.io/kiwigrid/k8s-sidecar:2.10.1": ("k8s-sidecar",),
}
# $1 the base, $2 a folder to work in, $3 the layer to make, $4 how Open WebUI is installed, then
# what INSTALL wants. An overlay on the base has as its upper folder just what that adds.
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


def base(folder: Path) -> Path:
    """Give the layer with Debian, made if it is not there; the log is in `folder`."""
    words = ("--variant=minbase", f"--include={PACKAGES}", "--format=tar", SUITE)

    def make(layer: Path) -> None:
        run("Debian", ["mmdebstrap", *words, layer], folder / "logs" / "build-base.log", folder)

    return artefact("debian.tar", make, (), *words)


def program(file: Path, at: str) -> Path:
    """Give a layer with one program at the path `at`, made unless it is there."""
    real = file.resolve()

    def make(layer: Path) -> None:
        with tarfile.open(layer, "w") as tar:
            tar.add(real, at, filter=_anonymous)

    # One that was built is named after all that went into it.
    content = () if file.is_symlink() else (file,)
    return artefact(f"{file.name}.tar", make, content, at, real.name)


def open_webui(folder: Path) -> Path:
    """Give the layer with Open WebUI in /opt/open-webui, for the Python of the base."""
    below = base(folder)
    install = [INSTALL, "python3", "/opt/open-webui", f"open-webui=={OPEN_WEBUI}", *BEYOND_SLIM]
    # Nothing of it is mounted where the machine sees it, so nothing is left by a kill.
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", IN_BASE, "sh"]

    def make(layer: Path) -> None:
        log = folder / "logs" / "build-open-webui-image.log"
        command: list[str | Path] = [*alone, below, layer.with_name("work"), layer, *install]
        run("Open WebUI", command, log, folder)

    return artefact("open-webui.tar", make, (), below.name, IN_BASE, *install)


def prepare(folder: Path) -> None:
    """Make the layers that take minutes, unless they are there; the logs are in `folder`."""
    open_webui(folder)


def every_image(folder: Path, programs: Mapping[str, Path], authority: Path) -> list[Image]:
    """Give all, of what is built into `folder`, programs by name.

    `authority` is the file with the certificate that the model registry's is signed with.
    """
    return [
        *system(folder, programs),
        *stack(folder, programs, authority),
        *monitoring(folder, programs),
    ]


def certificate(file: Path) -> Path:
    """Give a layer, beside `file`, that has it as /etc/registry.pem."""
    layer = file.with_suffix(".tar")
    with tarfile.open(layer, "w") as tar:
        tar.add(file, "etc/registry.pem", filter=_anonymous)
    return layer


def system(folder: Path, programs: Mapping[str, Path]) -> list[Image]:
    """Give those of the cluster's own pods."""
    debian, metallb = base(folder), pinned("metallb", METALLB)
    pause = [program(programs["pause"], "pause")]
    return [
        Image(
            name=PAUSE,
            layers=pause,
            config={"Entrypoint": ["/pause"]},
            difference="20 lines of Go",
        ),
        Image(name=DEBIAN, layers=[debian], config={"Cmd": ["sh"], "Env": [PATH]}),
        _built(COREDNS, folder, programs["coredns"]),
        _built(f"quay.io/metallb/controller:{metallb}", folder, programs["metallb-controller"]),
        _built(f"quay.io/metallb/speaker:{metallb}", folder, programs["metallb-speaker"]),
    ]


def stack(folder: Path, programs: Mapping[str, Path], authority: Path) -> list[Image]:
    """Give those of the stack's pods; Ollama trusts the `authority`."""
    trusting = {"Env": [PATH, "SSL_CERT_FILE=/etc/registry.pem"]}
    ollama = _built(OLLAMA_IMAGE, folder, programs["ollama"])
    page = {
        "Cmd": ["open-webui", "serve", "--host", "0.0.0.0", "--port", "8080"],
        # ENV is the image's own.
        "Env": [PATH, "ENV=prod", "PYTHONUNBUFFERED=1", "HOME=/tmp"],
    }
    return [
        replace(
            ollama,
            layers=[*ollama.layers, certificate(authority)],
            config={**ollama.config, "Cmd": ["serve"], **trusting},
            difference=f"{ollama.difference}; for the CPU, and trusts the model registry here",
        ),
        _built(RESTIC_IMAGE, folder, programs["restic"]),
        *(
            Image(
                name=name,
                layers=[base(folder), open_webui(folder)],
                config=page,
                difference="Debian's Python; without the packages for PDF, Office and speech",
            )
            for name in sorted({OPEN_WEBUI_IMAGE, GATEWAY_IMAGE})
        ),
    ]


def monitoring(folder: Path, programs: Mapping[str, Path]) -> list[Image]:
    """Give those of the chart kube-prometheus-stack, under the names that its version has."""
    script = program(Path(__file__).with_name("placeholder.py"), "placeholder.py")
    run_by = ["python3", "/placeholder.py"]
    return [
        *(_built(name, folder, programs[file]) for name, file in MONITORING.items()),
        *(
            Image(
                name=name,
                layers=[base(folder), script],
                config={"Entrypoint": [*run_by, *words], "Env": [PATH]},
                difference="a placeholder that answers probes",
            )
            for name, words in PLACEHOLDERS.items()
        ),
    ]


def _built(name: str, folder: Path, file: Path) -> Image:
    at = f"usr/bin/{file.name}"
    return Image(
        name=name,
        layers=[base(folder), program(file, at)],
        config={"Entrypoint": [f"/{at}"], "Env": [PATH]},
        difference="built from its Go module, on Debian",
    )


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    # The same file gives the same layer, whoever built it and when.
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry
