#!/usr/bin/env python3
"""A container of runc with a server in it: container_service.py DIR PORT SERVER [users] [overlay] [filtered] [limited].

Its /usr and /etc are the machine's, which it may only read. Its network namespace has a pair of devices, whose outer end is a port of
a bridge of the machine: the container is 10.X.Y.2, and X and Y are the bytes of PORT, of which all names are made, too. With
`users`, it has a user namespace; with `overlay`, its root is an overlay of a layer that it may only read; with `filtered`, its calls are
filtered, and it gets no new privileges; with `limited`, its control groups have limits."""

import json
import os
import pathlib
import subprocess
import sys

os.environ["PATH"] += ":/usr/sbin"
os.chdir(sys.argv[1])
port, server, wanted = int(sys.argv[2]), sys.argv[3], sys.argv[4:]
users = "users" in wanted
network = f"10.{port >> 8}.{port & 255}"
name, bridge, outer = f"zdtm-{port}", f"zb{port}", f"zo{port}"
# The first id outside of a user namespace.
FIRST = 200000

NGINX = """
daemon off; worker_processes 2; pid /srv/pid; error_log /srv/log; user nobody nogroup;
events { use epoll; worker_connections 32; }
http {
  access_log off; client_body_temp_path /srv/a; proxy_temp_path /srv/b; fastcgi_temp_path /srv/c; uwsgi_temp_path /srv/d; scgi_temp_path /srv/e;
  server { listen 80; root /srv; }
}
"""
NODE = """
let count = 0;
require('http').createServer((request, response) => response.end(`request ${++count}\\n`)).listen(80, '0.0.0.0');
setInterval(() => count, 1000);
"""
POSTGRES = """
PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH
initdb -D /srv/data -A trust --no-sync >/srv/log 2>&1 && echo "host all all 0.0.0.0/0 trust" >>/srv/data/pg_hba.conf
exec postgres -D /srv/data -k /tmp -c listen_addresses=0.0.0.0 >>/srv/log 2>&1 </dev/null
"""
SERVERS = {
    "redis": "exec redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir /srv >/srv/log 2>&1 </dev/null",
    "nginx": "exec nginx -c /srv/nginx.conf -e /srv/log >/srv/out 2>&1 </dev/null",
    "node": "exec node /srv/server.js >/srv/log 2>&1 </dev/null",
    "postgres": POSTGRES,
}


def run(*words):
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


root = pathlib.Path("rootfs")
for folder in ["usr", "etc", "proc", "sys", "dev", "tmp", "srv"]:
    (root / folder).mkdir(parents=True)
pathlib.Path("root").mkdir()
for link in ["bin", "lib", "lib64", "sbin"]:
    (root / link).symlink_to(f"usr/{link}")
(root / "srv/nginx.conf").write_text(NGINX)
(root / "srv/server.js").write_text(NODE)
(root / "srv/index.html").write_text(f"Hello from {server}.\n")
user = 65534 if server == "postgres" else 0
for path in [root, *root.rglob("*")]:
    os.chown(path, user + (FIRST if users else 0), user + (FIRST if users else 0), follow_symlinks=False)
# Root of a user namespace is anybody here.
for path in [pathlib.Path("."), pathlib.Path(".."), root, root / "tmp"]:
    path.chmod(0o1777 if path.name == "tmp" else path.stat().st_mode | 0o055)

if "overlay" in wanted:
    root.rename("lower")
    for folder in ["rootfs", "upper", "work"]:
        pathlib.Path(folder).mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", "lowerdir=lower,upperdir=upper,workdir=work", "rootfs")

run("runc", "spec")
spec = json.loads(pathlib.Path("config.json").read_text())
spec["process"].update(terminal=False, args=["/bin/sh", "-c", SERVERS[server]], user={"uid": user, "gid": user}, cwd="/srv")
spec["process"]["rlimits"] = []
spec["root"]["readonly"] = False
caps = ["CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]
for kind in ["bounding", "effective", "permitted"]:
    spec["process"]["capabilities"][kind] = caps
for folder in ["usr", "etc"]:
    spec["mounts"].append({"destination": f"/{folder}", "type": "bind", "source": f"/{folder}", "options": ["bind", "ro"]})
spec["linux"]["namespaces"] = [{"type": kind} for kind in ["pid", "network", "ipc", "uts", "mount", "cgroup"]]
if users:
    spec["linux"]["namespaces"].append({"type": "user"})
    ids = [{"containerID": 0, "hostID": FIRST, "size": 65536}]
    spec["linux"].update(uidMappings=ids, gidMappings=ids)
if "filtered" in wanted:
    calls = ["mount", "swapon", "reboot", "kexec_load", "open_by_handle_at", "init_module", "ptrace"]
    spec["process"]["noNewPrivileges"] = True
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO"}],
    }
else:
    spec["process"]["noNewPrivileges"] = False
if "limited" in wanted:
    spec["linux"]["resources"].update(
        memory={"limit": 512 << 20}, pids={"limit": 99}, cpu={"shares": 512, "quota": 90000, "period": 100000}
    )
pathlib.Path("config.json").write_text(json.dumps(spec))

run("ip", "link", "add", bridge, "type", "bridge")
run("ip", "addr", "add", f"{network}.1/24", "dev", bridge)
run("ip", "link", "set", bridge, "up")
with open("out", "w") as out:
    subprocess.run(["runc", "create", "--pid-file", "init", name], check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
pid = pathlib.Path("init").read_text().strip()
run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", pid)
run("ip", "link", "set", outer, "master", bridge, "up")
for words in [f"addr add {network}.2/24 dev eth0", "link set lo up", "link set eth0 up", f"route add default via {network}.1"]:
    run("nsenter", "-t", pid, "-n", "ip", *words.split())
run("runc", "start", name)
