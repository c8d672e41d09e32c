"""Counts in a redis server, its child, over one connection, and writes down every answer."""

import signal
import socket
import subprocess
import sys
import time

port = sys.argv[1]
server = subprocess.Popen(
    ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", ""],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)


def stop(_signal: int, _frame: object) -> None:
    server.kill()
    server.wait()
    sys.exit(0)


def connect() -> socket.socket:
    for _ in range(500):
        try:
            return socket.create_connection(("127.0.0.1", int(port)))
        except ConnectionRefusedError:
            time.sleep(0.01)
    sys.exit("redis-server does not listen")


signal.signal(signal.SIGTERM, stop)
answers = connect().makefile("rwb")
with open("count.log", "a", buffering=1) as log:
    while True:
        answers.write(b"INCR count\r\n")
        answers.flush()
        answer = answers.readline()
        assert answer.startswith(b":"), answer
        log.write(answer[1:].decode().strip() + "\n")
        time.sleep(0.001)
