#!/bin/sh
# Says whether the numbers in the log are consecutive.
awk '$2 != NR { print "line " NR " has number " $2; bad = 1; exit } END { if (!bad) print "no line is missing" }' dates.log
