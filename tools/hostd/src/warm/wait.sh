# Waits until this machine is to be one of its own; nothing of it is one machine's before.
exec 3<>/dev/virtio-ports/shale.identity || exit
systemctl is-system-running --wait >/dev/null
udevadm settle
# What misses an identity, as an SSH server without keys does, and tries again and again.
systemctl list-units --type=service --state=failed,activating --plain --no-legend >/run/shale.failed
while read -r unit rest; do
    systemctl stop "$unit"
done </run/shale.failed
rm -f /etc/ssh/ssh_host_*
# What is needed in a moment is in memory then.
head -c 1 /dev/zero | tar -cf /dev/null /etc/hostname 2>/dev/null
/usr/lib/shale/reseed </dev/null
sync
echo ready >&3
# It fails as long as nobody is at the other end.
until /usr/lib/shale/reseed <&3; do
    sleep 0.1
done
read -r bytes <&3 || exit
head -c "$bytes" <&3 | tar -xf - -C / || exit
. /run/shale.finish
