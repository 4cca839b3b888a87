#!/bin/sh -eu
# Writes the layer $2 with Open WebUI in /opt/open-webui, for the Python of the layer $1; $3 is its
# package, further ones follow. Runs in a mount namespace, so that a kill leaves no mount.
base=$1 layer=$2 work=$2-work; shift 2
rm -rf "$work"
mkdir -p "$work/base" "$work/upper" "$work/work" "$work/root"
tar -xf "$base" -C "$work/base"
cd "$work"
# The upper folder has the files that are added.
mount -t overlay -o lowerdir=base,upperdir=upper,workdir=work overlay root
for file in resolv.conf pip.conf ssl/certs; do
  if test -e "/etc/$file"; then
    test -d "/etc/$file" || touch "root/etc/$file"
    mount --bind "/etc/$file" "root/etc/$file"
  fi
done
mount -t proc proc root/proc
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PIP_NO_CACHE_DIR=1
chroot root sh -eus "$@" <<'END'
page=$1; shift
python3 -m venv /opt/open-webui
cd /opt/open-webui/lib/python3*/site-packages
pip() { /opt/open-webui/bin/python -m pip install --disable-pip-version-check "$@"; }
pip --no-deps "$page"
# Slim, because the full requirements are four times as large, and no test uses the rest.
sed -nE 's/^Requires-Dist: ([A-Za-z0-9_.-]+)(\[.*\])?(==[^ ]+)$/\1\3/p' \
  open_webui-*/METADATA >/opt/open-webui/constraints.txt
pip --requirement requirements-slim.txt --constraint /opt/open-webui/constraints.txt "$@"
END
tar --numeric-owner -C upper -cf "$layer" opt
cd /
umount -R "$work/root"
rm -rf "$work"
