#!/bin/sh
# Removes the control groups of a test in a hierarchy at $1, and waits until they are gone; unless told otherwise, unmounts it.
mountpoint -q "$1" || exit 0
for _ in 1 2 3 4 5 6 7 8 9; do
    find "$1" -depth -type d -path "*/zdtm-$2*" -exec rmdir {} + 2>/dev/null
    [ -z "$(find "$1" -type d -name "zdtm-$2*" 2>/dev/null)" ] && break
    sleep 0.1
done
[ "$3" = groups ] || umount "$1"
