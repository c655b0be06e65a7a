"""The machines of QEMU that stand for boards: what their cores are, where their memory lies, how they count instructions.

A machine runs the instruction set of its core; of the chip on the board it has nothing else. With ``-icount shift=n`` every
instruction takes 2**n ns, so that a timer of the machine counts instructions. A run of n instructions shows
``n * ticks_per_instruction`` ticks give or take one, and a tick is less than half an instruction: n is known exactly.
"""

from dataclasses import dataclass
from fractions import Fraction

from sparse_mcu.deploy.boards import Board

HARNESS_STACK_BYTES = 0x10000  # above the RAM of the board


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of QEMU."""

    name: str  # for messages
    command: tuple[str, ...]
    timer: str  # as c/qemu_harness.c calls it
    ticks_per_instruction: Fraction
    flash_start: int
    ram_start: int
    ram_bytes: int  # at least the board's and HARNESS_STACK_BYTES


def _arm(name: str, timer: str, timer_hz: int, ram_bytes: int, *options: str) -> Machine:
    return Machine(
        name=name,
        command=("qemu-system-arm", "-machine", name, *options, "-icount", "shift=7,sleep=off"),
        timer=timer,
        ticks_per_instruction=Fraction(2**7 * timer_hz, 10**9),
        flash_start=0x00000000,
        ram_start=0x20000000,
        ram_bytes=ram_bytes,
    )


def _riscv(extensions: str) -> Machine:
    cpu = f"rv32,{extensions},a=off,f=off,d=off,h=off,s=off,u=off"
    return Machine(
        name=f"virt ({cpu})",
        command=("qemu-system-riscv32", "-machine", "virt", "-cpu", cpu, "-bios", "none", "-icount", "shift=0,sleep=off"),
        timer="INSTRET",
        ticks_per_instruction=Fraction(1),
        flash_start=0x80000000,
        ram_start=0x84000000,
        ram_bytes=0x4000000,
    )


# The micro:bit's machine has the smaller core of boards with more memory than its own.
_MICROBIT = _arm(
    "microbit",
    "NRF51",
    16_000_000,
    0x1000000,
    "-global",
    "nrf51-soc.sram-size=0x1000000",
    "-global",
    "nrf51-soc.flash-size=0x800000",
)

MACHINES = {  # by the core of boards.toml
    "cortex-m0": _MICROBIT,
    "cortex-m0plus": _MICROBIT,  # the same instruction set
    "cortex-m3": _arm("mps2-an385", "CMSDK", 25_000_000, 0x400000),
    "cortex-m4": _arm("mps2-an386", "CMSDK", 25_000_000, 0x400000),
    "rv32ec": _riscv("i=off,e=on,m=off"),  # refuses a multiplication, but not the registers from x16 on
    "rv32imc": _riscv("m=on"),
}


def machine(board: Board) -> Machine:
    """Return the machine that runs programs for ``board``, whose simulator is QEMU."""
    return MACHINES[board.core]


def link_options(board: Board) -> tuple[str, ...]:
    """Return linker options that say where a program for ``board`` lies in its machine (see c/qemu.ld)."""
    place = machine(board)
    stack_top = place.ram_start + board.ram_bytes
    symbols = {
        "flash_start": place.flash_start,
        "ram_start": place.ram_start,
        "stack_top": stack_top,
        "harness_stack_top": stack_top + HARNESS_STACK_BYTES,
    }
    return tuple(f"-Wl,--defsym={name}={value:#x}" for name, value in symbols.items())
