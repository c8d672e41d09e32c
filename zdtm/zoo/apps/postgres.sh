#!/bin/sh
# Makes a database in the folder $1 and becomes its server on port $2, as a user who is not root.
set -e
PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH
run() { setpriv --reuid nobody --regid nogroup --clear-groups "$@"; }
mkdir -p "$1/data" "$1/run"
chown nobody:nogroup "$1/data" "$1/run"
chmod a+x "$1" "$(dirname "$1")"
run initdb -D "$1/data" -A trust --no-sync >/dev/null
exec setpriv --reuid nobody --regid nogroup --clear-groups postgres -D "$1/data" -p "$2" -k "$1/run" -c listen_addresses=127.0.0.1
