#!/bin/sh
# Takes off what container_service.py and container_root.sh mounted in $1.
for place in root rootfs; do
    ! mountpoint -q "$1/$place" || umount "$1/$place"
done
