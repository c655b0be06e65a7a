#!/bin/sh
# Own data end to end: images -> check -> search -> C -> a program that classifies one image on this machine.
# Usage: run.sh FOLDER, a folder to work in. Needs sparse-mcu, Python with Pillow, and cc on the path.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

python3 "$here/make_images.py" shapes
sparse-mcu data check shapes
sparse-mcu search shapes --board arduino-uno --ram 1K --flash 8K --trials "${TRIALS:-30}" --out run
sparse-mcu export run --model best --format c --out build

# Classes are numbered in the order of their names: bar 0, cross 1, ring 2.
cc -std=c99 -O2 -Wall -Ibuild -o classify "$here/classify.c" build/model.c
python3 -c 'import sys; from PIL import Image; sys.stdout.buffer.write(Image.open(sys.argv[1]).tobytes())' shapes/ring/000.png | ./classify
