# Prints the disks that can hold data for years, the networks, and which addresses are taken.
# It runs as root in the node's own namespaces, on restic's image; nothing is changed.
echo "== mounts"
grep -E ' (ext4|xfs|btrfs|zfs|f2fs) ' /proc/1/mounts | while read -r device path _; do
  # A space in a path is \040.
  printf '%s %s %s\n' "$device" "$path" "$(stat -f -c '%b %S' "/proc/1/root$(printf %b "$path")")"
done
echo "== route"
cat /proc/net/route
echo "== addresses"
cat /proc/net/fib_trie
if ! command -v ping >/dev/null; then exit 0; fi
# The whole network of a node at home is 254 addresses; whoever answers is in the ARP table.
last=1
while [ $last -lt 255 ]; do
  ping -c 1 -W 1 "$PREFIX.$last" >/dev/null 2>&1 &
  last=$((last + 1))
done
wait
echo "== arp"
cat /proc/net/arp
