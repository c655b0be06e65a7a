#!/bin/sh
# The whole of sparse-mcu in a few minutes: search and the front that it finds, export, verify. Usage: demo.sh path/to/sparse-mcu
# The rule for a runs/demo that is there already: its search goes on where it stopped, and is over at once if it was finished.
set -eu

sparse_mcu=$1
run=runs/demo

say() { printf '\n$ sparse-mcu %s\n' "$*"; "$sparse_mcu" "$@"; }

if [ -f "$run/run.json" ]; then
    say search --resume "$run"
else
    say search digits --board arduino-uno --ram 1K --flash 8K --time 165s --seed 1 --out "$run"
fi
say export "$run" --model best --format c --out "$run/export"
say verify "$run" --model best --board arduino-uno
