"""The images that pods run here, made from what package registries give."""

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.programs import BEYOND_SLIM, OPEN_WEBUI
from sandbox.real.oci import Image
from sandbox.toolchain import run

PAUSE = "registry.k8s.io/pause:3.10.1"
COREDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
# Debian's own Python is the one that Open WebUI is installed for.
PACKAGES = "busybox-static,ca-certificates,python3,python3-venv"
SUITE = "bookworm"
# $1 the base, $2 a folder to work in, $3 the layer to make, then Open WebUI and other packages.
# An overlay on the base has as its upper folder just what the installation adds.
INSTALL = r"""
base=$1 work=$2 layer=$3 page=$4; shift 4
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
inside() { PATH=/opt/open-webui/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp chroot root "$@"; }
inside python3 -m venv /opt/open-webui
inside pip install --no-cache-dir --no-deps "$page"
# The full requirements are four times as large, for what no test here uses.
slim=/opt/open-webui/lib/python3.11/site-packages/requirements-slim.txt
sed -nE 's/^Requires-Dist: ([A-Za-z0-9_.-]+)(\\[.*\\])?(==[^ ]+)$/\1\3/p' \
  root/opt/open-webui/lib/python3.11/site-packages/open_webui-*/METADATA >root/tmp/constraints
inside pip install --no-cache-dir --requirement "$slim" --constraint /tmp/constraints "$@"
tar --numeric-owner -C upper -cf "$layer" opt
cd /; umount -R "$work/root"; rm -rf "$work"
"""


def base(folder: Path) -> Path:
    """Give the layer with Debian, made in `folder` if it is not there."""
    layer = folder / "images" / "base.tar"
    if not layer.exists():
        layer.parent.mkdir(parents=True, exist_ok=True)
        partial = layer.with_suffix(".partial.tar")
        make: list[str | Path] = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={PACKAGES}",
            SUITE,
            partial,
        ]
        run("Debian", make, folder / "logs" / "build-base.log", folder)
        partial.rename(layer)
    return layer


def program(folder: Path, file: Path, at: str) -> Path:
    """Give a layer with one program at the path `at`, made in `folder` unless it is there."""
    layer = folder / "images" / f"{file.name}.tar"
    if not layer.exists() or layer.stat().st_mtime_ns < file.stat().st_mtime_ns:
        layer.parent.mkdir(parents=True, exist_ok=True)
        partial = layer.with_suffix(".partial")
        with tarfile.open(partial, "w") as tar:
            tar.add(file, at, filter=_anonymous)
        partial.rename(layer)
    return layer


def open_webui(folder: Path) -> Path:
    """Give the layer with Open WebUI in /opt/open-webui, for the Python of the base."""
    layer = folder / "images" / f"open-webui-{OPEN_WEBUI}.tar"
    if not layer.exists():
        work = folder / "images" / "open-webui"
        log = folder / "logs" / "build-open-webui-image.log"
        # Nothing of it is mounted where the machine sees it, so nothing is left by a kill.
        alone = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", INSTALL, "sh"]
        packages = [f"open-webui=={OPEN_WEBUI}", *BEYOND_SLIM]
        partial = layer.with_suffix(".partial")
        run("Open WebUI", [*alone, base(folder), work, partial, *packages], log, folder)
        partial.rename(layer)
    return layer


def system(folder: Path, programs: Mapping[str, Path], metallb: str) -> list[Image]:
    """Give the images of the cluster's own pods; `metallb` is the version of MetalLB."""

    def image(name: str, file: Path, **config: Any) -> Image:
        at = f"usr/bin/{file.name}"
        config["Entrypoint"] = [f"/{at}"]
        difference = "built from its Go module, on Debian"
        layers = [base(folder), program(folder, file, at)]
        return Image(name=name, layers=layers, config=config, difference=difference)

    pause = program(folder, programs["pause"], "pause")
    alone = {"Entrypoint": ["/pause"]}
    debian = Image(name="debian:bookworm", layers=[base(folder)], config={"Cmd": ["sh"]})
    return [
        debian,
        Image(name=PAUSE, layers=[pause], config=alone, difference="a program of 20 lines in Go"),
        image(COREDNS, programs["coredns"]),
        image(f"quay.io/metallb/controller:{metallb}", programs["metallb-controller"]),
        image(f"quay.io/metallb/speaker:{metallb}", programs["metallb-speaker"]),
    ]


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    # The same file gives the same layer, whoever built it and when.
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry
