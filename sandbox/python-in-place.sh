#!/bin/sh
# The Python of the unpacked image of Open WebUI, with its own libraries on any machine.
root=${0%/*}/../../..
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
PYTHONHOME=$root/usr exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" \
  --argv0 "$0" "$root/usr/bin/python3" "$@"
