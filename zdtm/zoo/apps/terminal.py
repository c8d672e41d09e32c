"""A terminal for a program: `terminal.py PROGRAM...` runs it on a pseudo-terminal.

What it prints goes to the file `screen`; what stands in the file `keys` is typed, as far as it was not typed before.
`terminal.py --type TEXT` adds to that file.
"""

import os
import pty
import select
import sys

if sys.argv[1] == "--type":
    with open("keys", "a", encoding="ascii") as keys:
        keys.write(sys.argv[2].encode().decode("unicode_escape"))
    sys.exit()

child, master = pty.fork()
if child == 0:
    os.environ.update(PS1="$ ", TERM="dumb")
    os.execvp(sys.argv[1], sys.argv[1:])

typed = 0
screen = open("screen", "ab", buffering=0)
poll = select.poll()
poll.register(master, select.POLLIN)
while True:
    if poll.poll(20):
        try:
            screen.write(os.read(master, 4096))
        except OSError:
            break
    if os.path.exists("keys"):
        with open("keys", "rb") as keys:
            keys.seek(typed)
            more = keys.read()
        os.write(master, more)
        typed += len(more)
