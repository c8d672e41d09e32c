#!/bin/sh
# Removes the container of container_service.py in $1, whose names are made of $2.
PATH=$PATH:/usr/sbin
runc delete -f "zdtm-$2"
sh "$(dirname "$0")/container_unmount.sh" "$1"
! ip link show "zb$2" >/dev/null 2>&1 || ip link del "zb$2"
