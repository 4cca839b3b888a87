# Makes the directories of the volumes on a mounted disk; what is in them is given to their owner.
# It runs as root, on restic's image; the node's own disks are below /proc/1/root.
set -eu
root=${ROOT-/proc/1/root}
# A space in a mounted path is \040.
escaped=$(printf '%s' "$DISK" | sed 's/ /\\040/g')
grep -qF " $escaped " "${MOUNTS-/proc/1/mounts}" || { echo "$DISK: not mounted"; exit 1; }
while read -r owner mode path; do
  mkdir -p "$root$path"
  others=$(find "$root$path" -mindepth 1 \( ! -user "${owner%:*}" -o ! -group "${owner#*:}" \) | wc -l)
  if [ "$others" != 0 ]; then
    # A link is given away itself, never what it leads to.
    chown -hR "$owner" "$root$path"
    moved=", with what is in it: $others had another owner"
  fi
  chown "$owner" "$root$path"
  chmod "$mode" "$root$path"
  echo "$path: $owner $mode${moved-}"
  unset moved
done <<END
$DIRECTORIES
END
