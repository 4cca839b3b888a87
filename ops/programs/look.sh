# Prints the disks, the networks, the GPU's memory and groups, and which addresses are in use.
# Runs as root in the node's PID and network namespaces, on restic's image; changes nothing.
echo "== mounts"
grep -E ' (ext4|xfs|btrfs|zfs|f2fs) ' /proc/1/mounts | while read -r device path _; do
  # A space in a path is \040.
  printf '%s %s %s\n' "$device" "$path" "$(stat -f -c '%b %S' "/proc/1/root$(printf %b "$path")")"
done
# Of busybox, which restic's image has, and an image of restic on Debian may have without links.
echo "== addresses"
busybox ip -o -4 address 2>/dev/null
echo "== gpu"
for file in /sys/class/drm/card*/device/mem_info_gtt_total; do
  if [ -e "$file" ]; then echo "gtt $(cat "$file")"; fi
done
for file in /proc/1/root/dev/dri/*; do
  if [ -c "$file" ]; then echo "group $(stat -c %g "$file")"; fi
done
if ! busybox ping -c 1 -W 1 127.0.0.1 >/dev/null 2>&1; then exit 0; fi
# An address that answers is in the ARP table, also if it drops pings.
last=1
while [ $last -lt 255 ]; do
  busybox ping -c 1 -W 1 "$PREFIX.$last" >/dev/null 2>&1 &
  last=$((last + 1))
done
wait
echo "== arp"
cat /proc/net/arp
