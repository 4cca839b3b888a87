#!/bin/sh
# SCRATCH COMMAND: run a step as an init container. `pulumi up` prints the termination message of a
# container, but not of an init container: a failed step writes its last line to SCRATCH/failed,
# which later steps skip on, and the last step prints.
scratch=$1
shift
[ ! -e "$scratch/failed" ] || exit 0
{ "$@" || touch "$scratch/failed"; } 2>&1 | tee "$scratch/log"
[ ! -e "$scratch/failed" ] || tail -n 1 "$scratch/log" >"$scratch/failed"
