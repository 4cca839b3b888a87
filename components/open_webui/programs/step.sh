#!/bin/sh
# SCRATCH COMMAND: run a step that is not the last one. `pulumi up` prints why a pod's container has
# failed, but not why an init container has: the last line of a step that fails waits in
# SCRATCH/failed for the last step, which ends with it, and those in between do nothing.
scratch=$1
shift
[ ! -e "$scratch/failed" ] || exit 0
{ "$@" || touch "$scratch/failed"; } 2>&1 | tee "$scratch/log"
[ ! -e "$scratch/failed" ] || tail -n 1 "$scratch/log" >"$scratch/failed"
