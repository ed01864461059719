#!/bin/sh
# start.sh REPOSITORY SHARE MODULES NODE: process 1 of the lab guest once its root is mounted. Makes of
# it a machine as Debian would have started it, runs the tests (inside.ts), and turns it off.
root=$1 share=$2 modules=$3 node=$4
exec </dev/null >>"$share/start.log" 2>&1
cd "$root" || exec busybox poweroff -f

# The kernel is not installed on the host; modprobe, and the kernel's own calls of it, look here.
[ -e "/lib/modules/$(uname -r)" ] || { mkdir -p /lib/modules && ln -s "$modules" "/lib/modules/$(uname -r)"; }
modprobe kvm_amd
modprobe -a tun fuse loop dummy

# What udev does on a machine: the group's device. The group need not have a name.
chgrp "$(getent group kvm | cut -d: -f3 | grep . || echo 104)" /dev/kvm
chmod 660 /dev/kvm
chmod 666 /dev/fuse /dev/net/tun
ulimit -n 524288

# As systemd mounts it. Groups with processes of their own cannot have controllers below them, so we move.
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/lab
echo $$ >/sys/fs/cgroup/lab/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; done

# A network card with a way out, as most machines have, though nothing answers there.
hostname lab
ip link set lo up
ip link add uplink type dummy && ip link set uplink up
ip address add 192.0.2.2/24 dev uplink && ip route add default via 192.0.2.1

# The commands keep compiled code beside the program, as on a machine where it can be written.
mount -t tmpfs compiled "$root/dist/.compile-cache"

# Types are stripped once, not by every process: all is slow here.
export NODE_COMPILE_CACHE=/tmp/node-compile-cache
CI=true "$node" "$root/test/lab/inside.ts" "$share"
dmesg >"$share/dmesg.log"
sync
busybox poweroff -f
