#!/bin/sh
# Stores and fetches the snapshots of backup.py in restic's repository, RESTIC_REPOSITORY.
set -eu
export RESTIC_PROGRESS_FPS=0.1 # a line every ten seconds
restic="restic --no-cache --retry-lock 10m"

# Remove stale locks of killed pods, which restic would respect for half an hour. While this pod has
# the folder locked, no other pod uses the repository, so all their locks are stale. A lock of restic
# on the server itself stays while that process is alive. On a share without flock, stale locks expire
# after the half hour.
remove_stale_locks() {
  exec 9<"${RESTIC_REPOSITORY%/*}"
  ! flock 9 || for lock in "$RESTIC_REPOSITORY"/locks/*; do
    # Empty: the power failed before it was written to the disk.
    ! grep -qs . "$lock" || $restic --no-lock cat lock "${lock##*/}" 2>/dev/null |
      grep -Eq '"hostname": "open-webui-(backup|restore)-' || continue
    rm -f "$lock"
  done
  $restic unlock >/dev/null 2>&1 || :
}

# Damaged packs would spoil all later backups too, because restic does not store again what its
# index lists. Removed, the next backup stores it again if it still exists; older backups lose it.
repair() { # SCRATCH BACKUP
  $restic check --read-data >"$1/output" 2>&1 && return
  grep -i error "$1/output" | head -n 5
  cd "$1" # restic writes copies of the packs here
  $restic repair index
  packs=$(sed -n 's/^restic repair packs //p' "$1/output")
  [ -z "$packs" ] || $restic repair packs $packs
  $restic repair snapshots --forget
  touch "$2/damaged"
  echo "restic check failed, as above: the repository is repaired, for the next try"
}

case "$1" in
store) # SCRATCH BACKUP: store the snapshot in the repository, and fetch it for verification
  [ -e "$2/snapshot/manifest.json" ] || exit 0
  remove_stale_locks
  # Exit code 10: no repository. After a wrong password, none may be created.
  $restic cat config >"$2/output" 2>&1 || {
    [ $? -eq 10 ] || { cat "$2/output" && exit 1; }
    # The backup before the first image wrote the file image; without it, the disk is not mounted.
    [ "$KIND" = upgrade ] || [ -e "$3/image" ] || {
      echo "no repository and no file image: mount the disk; on a new disk: echo unknown >image"
      exit 1
    }
    # A repository without config cannot be read, and a new one in its place would hide that.
    [ -z "$(find "$RESTIC_REPOSITORY"/data -type f 2>/dev/null | head -n 1)" ] || {
      echo "the repository has lost its file config: move $RESTIC_REPOSITORY away and keep it"
      exit 1
    }
    # restic would first try the key of an interrupted init, which opens no other repository.
    rm -rf "$RESTIC_REPOSITORY"
    $restic init
  }
  image=$(cat "$3/image" 2>/dev/null || echo unknown)
  # Relative, because an absolute path would differ between pods.
  cd "$2/snapshot"
  # Exit code 3: something could not be read, here a folder of the snapshot before this one.
  $restic backup --json --host open-webui --tag "$KIND" --tag "image=$image" . >"$2/output" || {
    [ $? -ne 3 ] || repair "$2" "$3"
    exit 1
  }
  id=$(sed -n 's/.*"snapshot_id":"\([0-9a-f]*\)".*/\1/p' "$2/output")
  cd "$2"
  mv snapshot/manifest.json .
  rm -r snapshot
  $restic restore "$id" --target restored || { repair "$2" "$3"; exit 1; }
  ;;
finish) # SCRATCH BACKUP: forget old snapshots, or before an upgrade write the next image's name
  # The last line of a failed step (step.sh).
  [ ! -e "$2/failed" ] || { cat "$2/failed" && exit 1; }
  remove_stale_locks
  if [ "$KIND" = upgrade ]; then
    # Replaced, because a file that root wrote on a new disk cannot be written.
    printf %s "$IMAGE" >"$3/.image"
    mv -f "$3/.image" "$3/image"
  elif [ -e "$2/manifest.json" ]; then
    $restic forget --host open-webui --group-by host --tag scheduled $KEEP
    $restic forget --host open-webui --group-by host --tag upgrade --keep-last 5
    # Not `forget --prune`, which does not prune if that call forgets nothing.
    # A thirty-first of the data each night, because only older backups need some of it.
    $restic prune && $restic check --read-data-subset="$(date +%-d)/31" || {
      repair "$2" "$3"
      $restic prune # fails again if it was not for damage
    }
    $restic snapshots --compact
    # A failed Job calls the owner; this backup is good.
    [ ! -e "$3/damaged" ] || {
      rm "$3/damaged"
      echo "stored; but parts of older backups were damaged and are lost:" \
        "docs/runbook.md#backupfailed"
      exit 20 # fails the Job without a second pod (backup_jobs.py), which would succeed
    }
  fi
  [ ! -e "$2/left-out" ] || cat "$2/left-out"
  ;;
fetch) # DATA KEY: fetch a snapshot to the data's disk, and its secret key into memory
  rm -rf "$2/.restore"
  remove_stale_locks
  $restic dump "$SNAPSHOT" --host open-webui /webui-secret-key >"$3/webui-secret-key"
  # Last, and removed if it fails: a failed fetch must not leave the data's disk full.
  $restic restore "$SNAPSHOT" --host open-webui --exclude /webui-secret-key \
    --target "$2/.restore" || { rm -rf "$2/.restore" && exit 1; }
  ;;
list)
  $restic --no-lock snapshots --compact
  ;;
esac
