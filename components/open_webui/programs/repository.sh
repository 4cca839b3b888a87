#!/bin/sh
# What restic does with the snapshots of backup.py. RESTIC_* name the repository and its password.
set -eu
export RESTIC_PROGRESS_FPS=0.1 # a line every ten seconds
restic="restic --no-cache --retry-lock 10m"

# Locks that runs which were killed have left would keep out all later ones for half an hour. No
# other pod uses the repository while this one has its folder locked, so each lock of one is left
# over. A person's, who uses restic on the server, stays while it is alive. A share that knows no
# flock has the half hour.
alone() {
  exec 9<"${RESTIC_REPOSITORY%/*}"
  ! flock 9 || for lock in "$RESTIC_REPOSITORY"/locks/*; do
    # Empty: the power went away before it was on the disk.
    ! grep -qs . "$lock" || $restic --no-lock cat lock "${lock##*/}" 2>/dev/null |
      grep -q '"hostname": "open-webui-backup-' || continue
    rm -f "$lock"
  done
  $restic unlock >/dev/null 2>&1 || :
}

# What a disk has damaged would spoil all later backups, too: restic takes it for stored. Taken out,
# it is stored again by the next one, as far as it is still there. Older ones lose such files.
mend() { # SCRATCH BACKUP
  $restic check --read-data >"$1/said" 2>&1 && return
  grep -i error "$1/said" | head -n 5
  cd "$1" # where restic puts copies of what it takes out
  $restic repair index
  packs=$(sed -n 's/^restic repair packs //p' "$1/said")
  [ -z "$packs" ] || $restic repair packs $packs
  $restic repair snapshots --forget
  touch "$2/damaged"
  echo "the disk has damaged the repository: what was damaged is taken out, for the next try"
}

case "$1" in
store) # SCRATCH BACKUP: put the snapshot into the repository, and get it back for verifying
  [ -e "$2/snapshot/manifest.json" ] || exit 0
  alone
  # 10: there is no repository. A wrong password must not make a new one.
  $restic cat config >"$2/said" 2>&1 || {
    [ $? -eq 10 ] || { cat "$2/said" && exit 1; }
    # The run before the first image has left its name: where that is missing too, so is the disk.
    [ "$KIND" = upgrade ] || [ -e "$3/image" ] || {
      echo "no repository here, nor a file image: mount the disk; on a new one: echo unknown >image"
      exit 1
    }
    # Without its configuration nothing in it can be read, and a new one beside it would hide that.
    [ -z "$(find "$RESTIC_REPOSITORY"/data -type f 2>/dev/null | head -n 1)" ] || {
      echo "the repository has lost its file config: move $RESTIC_REPOSITORY away, and back it up"
      exit 1
    }
    # The key of an init that was cut off opens no other repository, and would be tried first.
    rm -rf "$RESTIC_REPOSITORY"
    $restic init
  }
  image=$(cat "$3/image" 2>/dev/null || echo unknown)
  # By the folder's own name it would have another path in every pod.
  cd "$2/snapshot"
  restic --no-cache backup --json --host open-webui --tag "$KIND" --tag "image=$image" . >"$2/said"
  id=$(sed -n 's/.*"snapshot_id":"\([0-9a-f]*\)".*/\1/p' "$2/said")
  cd "$2"
  mv snapshot/manifest.json .
  rm -r snapshot
  $restic restore "$id" --target restored || { mend "$2" "$3"; exit 1; }
  ;;
finish) # SCRATCH BACKUP: forget what is too old, or note which image is next, now that it is proven
  # Why an earlier step has failed (step.sh).
  [ ! -e "$2/failed" ] || { cat "$2/failed" && exit 1; }
  alone
  if [ "$KIND" = upgrade ]; then
    printf %s "$IMAGE" >"$3/image"
  elif [ -e "$2/manifest.json" ]; then
    $restic forget --host open-webui --group-by host --tag scheduled $KEEP
    $restic forget --host open-webui --group-by host --tag upgrade --keep-last 5
    # Not forget's own --prune, which does nothing when that one call has nothing to forget.
    # A thirty-first each night, so that what only older ones need is looked at, too.
    $restic prune && $restic check --read-data-subset="$(date +%-d)/31" || mend "$2" "$3"
    $restic snapshots --compact
    # A failed Job calls the owner; this backup is good.
    [ ! -e "$3/damaged" ] || {
      rm "$3/damaged"
      echo "stored; but the disk had damaged older backups, which lost what was in these parts"
      exit 1
    }
  fi
  [ ! -e "$2/left-out" ] || cat "$2/left-out"
  ;;
fetch) # DATA KEY: get a snapshot beside the data, and its secret key into memory
  rm -rf "$2/.restore"
  alone
  # One that does not fit must not leave the disk of the data full.
  $restic restore "$SNAPSHOT" --host open-webui --exclude /webui-secret-key \
    --target "$2/.restore" || { rm -rf "$2/.restore" && exit 1; }
  $restic dump "$SNAPSHOT" --host open-webui /webui-secret-key >"$3/webui-secret-key"
  ;;
list)
  $restic --no-lock snapshots --compact
  ;;
esac
