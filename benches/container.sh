#!/bin/sh
# Becomes the init of a container in new namespaces (unshare --mount --pid --net --ipc --uts --fork): $1 is its root, an empty folder
# beside `files`. It has 40 mounts, a pair of network devices once somebody makes it, and leaves the file $1/m/t1/ready.
set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t tmpfs -o size=1m,mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t mqueue mqueue dev/mqueue
mount -t sysfs -o ro sysfs sys
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mount -t tmpfs -o size=1m tmpfs "m/t$i"
    echo "some text" >"m/t$i/file"
    mount --bind "../files/$i" "m/b$i"
done
for i in 1 2 3 4 5 6 7; do mount --bind proc/sys "m/p$i"; done
for i in stat uptime; do mount --bind dev/null "proc/$i"; done
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done
ip addr add 192.0.2.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.1
pivot_root . mnt
cd /
/bin/busybox umount -l /mnt
: >/m/t1/ready
exec /bin/busybox sleep 100000 </dev/null >/dev/null 2>&1
