"""Serves 200 MiB once, from a process of its own session, and writes down how much, and the checksum in the end."""

import hashlib
import os
import random
import socket
import sys
import time

BLOCK = 1 << 20
BLOCKS = 200


def serve(listener: socket.socket) -> None:
    client, _ = listener.accept()
    listener.close()
    client.settimeout(60)
    client.recv(1 << 16)
    header = f"HTTP/1.1 200 OK\r\nContent-Length: {BLOCK * BLOCKS}\r\nConnection: close\r\n\r\n"
    client.sendall(header.encode())
    numbers = random.Random(4)
    checksum = hashlib.sha256()
    with open("served.log", "a", buffering=1) as log:
        for number in range(1, BLOCKS + 1):
            block = numbers.randbytes(BLOCK)
            checksum.update(block)
            client.sendall(block)
            log.write(f"{number} MiB\n")
            # Slow enough to be met in the midst of it.
            time.sleep(0.005)
    client.close()
    with open("expected.tmp", "w") as expected:
        expected.write(f"{checksum.hexdigest()}  -\n")
    os.rename("expected.tmp", "expected")


server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        serve(server)
