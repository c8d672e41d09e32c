# Installs what the gate needs and a bare machine lacks: a linker for cargo, and the programs of zdtm/zoo/apps.
# What cannot be installed is not fatal: entries that need it are skipped, with that reason.
set -u

declare -A package=(
  [cc]=gcc
  [python3]=python3
  [redis-server]=redis-server
  [redis-cli]=redis-tools
  [nginx]=nginx-light
  [memcached]=memcached
  [curl]=curl
  [tmux]=tmux
  [iptables]=iptables
  [nft]=nftables
  [ip]=iproute2
  [runc]=runc
  [busybox]=busybox-static
  [mkfs.btrfs]=btrfs-progs
)
missing=()
for program in "${!package[@]}"; do
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
if [ ${#missing[@]} != 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  # The packages would start their servers on the ports that everybody uses.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get update -qq >/dev/null 2>&1
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 \
    || echo "could not install all of: ${missing[*]}"
fi
