"""Four threads count; the main thread writes their counts."""

import threading
import time

THREADS = 4
counts = [0] * THREADS
wanted = threading.Condition()
round_number = 0


def count(own: int) -> None:
    seen = 0
    while True:
        with wanted:
            while round_number == seen:
                wanted.wait()
            seen = round_number
            counts[own] += 1
            wanted.notify_all()


def main() -> None:
    global round_number
    for own in range(THREADS):
        threading.Thread(target=count, args=(own,), daemon=True).start()
    with open("count.log", "a", buffering=1) as log:
        while True:
            with wanted:
                round_number += 1
                wanted.notify_all()
                while any(number != round_number for number in counts):
                    wanted.wait()
            for own, number in enumerate(counts):
                log.write(f"{own} {number}\n")
            time.sleep(0.02)


main()
