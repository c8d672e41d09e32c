#!/usr/bin/env python3
"""An engine that starts a killed program anew under the same process id: enough to test the runner's own part.

It only suits a target without state, and address space layout randomization must be off.
"""

import ctypes
import json
import os
import sys
import time

CLONE3, RT_SIGACTION, SIGCHLD, SIGKILL = 435, 13, 17, 9


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def strings(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split("\0")[:-1]


def handlers(pid: int) -> list[str]:
    """Which signals are handled and ignored, which tells how far a program has come."""
    with open(f"/proc/{pid}/status") as file:
        return [line for line in file if line.startswith(("SigCgt", "SigIgn"))]


def dump(state: str) -> None:
    pid = int(option("-t"))
    facts = {
        "pid": pid,
        "arguments": strings(f"/proc/{pid}/cmdline"),
        "environment": dict(pair.split("=", 1) for pair in strings(f"/proc/{pid}/environ")),
        "cwd": os.readlink(f"/proc/{pid}/cwd"),
        "handlers": handlers(pid),
    }
    with open(state, "w") as file:
        json.dump(facts, file)
    os.kill(pid, SIGKILL)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.001)


def restore(state: str) -> None:
    with open(state) as file:
        facts = json.load(file)
    libc = ctypes.CDLL(None, use_errno=True)
    ids = (ctypes.c_int * 1)(facts["pid"])
    # struct clone_args of linux/sched.h: the fifth word is the exit signal, the ninth and tenth are the wanted ids.
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, SIGCHLD, 0, 0, 0, ctypes.addressof(ids), 1, 0)
    pid = libc.syscall(CLONE3, arguments, ctypes.sizeof(arguments))
    if pid < 0:
        sys.exit(f"clone3: {os.strerror(ctypes.get_errno())}")
    if pid == 0:
        become(libc, facts)
    while handlers(pid) != facts["handlers"]:
        time.sleep(0.001)
    with open(option("--pidfile"), "w") as file:
        file.write(f"{pid}\n")


def become(libc: ctypes.CDLL, facts: dict) -> None:
    os.setsid()
    os.chdir(facts["cwd"])
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    log = os.open("workload.log", os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, 1000)
    usual = ctypes.create_string_buffer(32)
    for number in range(1, 65):
        libc.syscall(RT_SIGACTION, number, usual, None, 8)
    os.execve(facts["arguments"][0], facts["arguments"], facts["environment"])


{"dump": dump, "restore": restore}[sys.argv[1]](os.path.join(option("-D"), "state.json"))
