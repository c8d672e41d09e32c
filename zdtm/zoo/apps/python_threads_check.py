"""Says whether every thread's counts are consecutive."""

counts: dict[str, int] = {}
with open("count.log") as log:
    for line in log:
        # The last line may be written just now.
        if line.endswith("\n"):
            thread, number = line.split()
            assert int(number) == counts.get(thread, 0) + 1, f"thread {thread}: {number} after {counts.get(thread)}"
            counts[thread] = int(number)
assert len(counts) == 4, counts
print("consecutive")
