#!/bin/sh
# Writes a numbered line five times a second.
number=0
while :; do
    number=$((number + 1))
    echo "line $number $(date +%T.%N)" >> dates.log
    sleep 0.2
done
