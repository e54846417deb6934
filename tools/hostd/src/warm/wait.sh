# Waits until this machine is to be one of its own; nothing of it is one machine's before.
udevadm settle
exec 3<>/dev/virtio-ports/shale.identity || exit
systemctl is-system-running --wait >/dev/null
udevadm settle
# What misses an identity, as an SSH server without keys does, and tries again and again.
systemctl list-units --type=service --state=failed,activating --plain --no-legend >/run/shale.failed
while read -r unit rest; do
    systemctl stop "$unit"
done </run/shale.failed
rm -f /etc/ssh/ssh_host_*
# In memory, as it is needed in a moment; and what was written goes to the disk.
/usr/lib/shale/reseed </dev/zero
echo ready >&3
# The host says all that there is to do. Without somebody at the other end there is an end of file.
until [ -e /run/shale.done ]; do
    sh -s <&3
    sleep 0.1
done
