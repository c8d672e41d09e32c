"""Says whether the server's counts are consecutive."""

with open("count.log") as log:
    # The last line may be written just now.
    counts = [int(line) for line in log if line.endswith("\n")]
assert counts == list(range(1, len(counts) + 1)), "a count is missing, or there twice"
print("consecutive")
