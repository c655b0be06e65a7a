#!/bin/sh
# The compilers and simulators that `sparse-mcu verify` needs: says so where they are there, else installs them where it may.
# `toolchain.sh avr` leaves it at those for AVR boards; those for Arm and RISC-V are another 150 MB, and take a minute.
# Always ends well: without them a search works all the same, and networks are checked with whatever is there.
set -u
boards=${1:-all}

includes() { # HEADER COMPILER...: does the compiler find the header?
    header=$1
    shift
    echo "#include <$header>" | "$@" -E -x c - >/dev/null 2>&1
}

missing() {
    # Debian's Python makes no virtual environment without this package.
    command -v python3 >/dev/null && { python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv; }
    includes stdio.h cc || echo gcc libc6-dev
    missing_avr
    if [ "$boards" != avr ]; then
        missing_gnu arm-none-eabi
        missing_gnu riscv64-unknown-elf
        command -v qemu-system-arm >/dev/null || echo qemu-system-arm
        command -v qemu-system-riscv32 >/dev/null || echo qemu-system-misc
    fi
}

missing_avr() {
    command -v avr-gcc >/dev/null || echo gcc-avr
    command -v avr-nm >/dev/null && command -v avr-size >/dev/null || echo binutils-avr
    includes avr/io.h avr-gcc -mmcu=atmega328p || echo avr-libc
    includes simavr/sim_avr.h cc || echo libsimavr-dev
}

missing_gnu() { # TARGET: whose compiler and binutils begin their names with it, and end their packages' names
    command -v "$1-gcc" >/dev/null || echo "gcc-$1"
    command -v "$1-nm" >/dev/null && command -v "$1-size" >/dev/null || echo "binutils-$1"
}

packages=$(missing | tr '\n' ' ')
packages=${packages% }
if [ -z "$packages" ]; then
    echo "toolchain: the compilers and simulators are installed"
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    root="env"
elif sudo -n true 2>/dev/null; then
    root="sudo -n"
else
    root=""
fi

# An update of the package lists is slow, so it comes only where the lists at hand do not do.
install() {
    # $packages and $root are lists of words.
    # shellcheck disable=SC2086
    $root apt-get install -y -q --no-install-recommends $packages
}

if [ -n "$root" ] && command -v apt-get >/dev/null; then
    echo "toolchain: installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if install >"$log" 2>&1 || { $root apt-get update -q >"$log" 2>&1 && install >"$log" 2>&1; }; then
        echo "toolchain: installed"
    else
        tail -n 3 "$log" >&2
        echo "toolchain: could not be installed; networks cannot be verified on a simulated board until you run: apt-get install $packages" >&2
    fi
    rm -f "$log"
else
    echo "toolchain: to verify networks on a simulated board, run: sudo apt-get install $packages" >&2
fi
