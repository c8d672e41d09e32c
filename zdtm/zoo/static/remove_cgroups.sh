#!/bin/sh
# Removes the control groups of a test, and waits until they are gone: a task that was killed leaves in its own time.
cd /sys/fs/cgroup || exit 1
for _ in 1 2 3 4 5 6 7 8 9; do
    # Not those of a test whose name only begins like this one.
    find . -depth -type d \( -path "*/zdtm-$1" -o -path "*/zdtm-$1/*" -o -path "*/zdtm-$1-*" \) -exec rmdir {} + 2>/dev/null
    [ -z "$(find . -type d \( -name "zdtm-$1" -o -name "zdtm-$1-*" \) 2>/dev/null)" ] && exit 0
    sleep 0.1
done
echo "groups of $1 are left" >&2
exit 1
