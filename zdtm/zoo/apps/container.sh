#!/bin/sh
# A bundle of runc in $1: a container with a shell of busybox that counts into a file of its root, and a service beside it.
set -e
PATH=$PATH:/usr/sbin
cd "$1"
mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev rootfs/tmp root shared
cp "$(command -v busybox)" rootfs/bin/busybox
for name in sh sleep cat nc; do ln -s busybox "rootfs/bin/$name"; done
echo "from outside" >shared/file
runc spec
python3 - <<'END'
import json
spec = json.load(open("config.json"))
script = ("exec </dev/null >/tmp/count 2>&1; echo kept >/dev/shm/note; mkdir /dev/shm/more; "
          "i=0; while :; do i=$((i+1)); echo $i $(cat /dev/shm/note /mnt/file); sleep 0.05; done")
spec["process"].update(terminal=False, args=["/bin/sh", "-c", script])
spec["root"]["readonly"] = False
spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": "shared", "options": ["rbind", "ro"]})
json.dump(spec, open("config.json", "w"))
END
