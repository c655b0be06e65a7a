"""What cores of Arm's M profile take for each kind of instruction, as their Technical Reference Manuals state it.

The kinds are those of c/qemu_cycles.c. Memory answers at once, as the manuals assume: flash behind wait states is slower. Where a
time depends on what is computed with it is the longest (a division, a long product of a Cortex-M3), where it depends on the place
that a branch leads to the usual one (a Cortex-M3 or M4 refills its pipeline in two cycles, of one to three). Chips choose their
multiplier: on these boards it takes one cycle. Instructions behind IT count as executed.
"""

from collections.abc import Mapping

_CORTEX_M0 = {  # DDI 0432C, table 3-1
    "alu": 1,
    "multiply": 1,
    "load": 2,
    "next_load": 2,
    "store": 2,
    "store_at": 2,
    "transfer": 1,
    "branch": 3,
    "not_taken": 1,
    "call": 4,
    "indirect": 3,
    "return": 3,
}
_CORTEX_M4 = {  # DDI 0439D, table 3-1, and section 3.3.3 for accesses to memory
    "alu": 1,
    "multiply": 1,
    "multiply_add": 1,
    "long_multiply": 1,
    "divide": 12,
    "load": 2,
    "next_load": 1,
    "store": 1,
    "store_at": 2,
    "transfer": 1,
    "branch": 3,
    "not_taken": 1,
    "call": 3,
    "indirect": 3,
    "return": 2,
}

CORE_TIMINGS: Mapping[str, Mapping[str, int]] = {  # by the core of boards.toml: cycles by kind
    "cortex-m0": _CORTEX_M0,
    "cortex-m0plus": _CORTEX_M0 | {"branch": 2, "call": 3, "indirect": 2, "return": 2},  # DDI 0484C, table 3-1
    "cortex-m3": _CORTEX_M4 | {"multiply_add": 2, "long_multiply": 5},  # DDI 0337I, table 3-1
    "cortex-m4": _CORTEX_M4,
}
