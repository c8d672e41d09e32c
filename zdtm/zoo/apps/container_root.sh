#!/bin/sh
# Mounts the root of the container in $1 where a restore finds it.
mountpoint -q "$1/root" || mount --bind "$1/rootfs" "$1/root"
