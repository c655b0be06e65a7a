"""What kernels take on a core: code and stack in bytes, and cycles; as measured by tools/measure_kernels.py."""

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources

from sparse_mcu.deploy.boards import Board
from sparse_mcu.errors import BoardError


@dataclass(frozen=True, slots=True)
class KernelCosts:
    """One core's row of kernel_costs.toml. Sections of c/kernels.c are named as ``variant`` does."""

    compiler: str  # with its flags
    base_bytes: int  # of code in any network
    code: dict[str, int]  # bytes, by section
    helpers: dict[str, int]  # bytes of the compiler's own functions (a multiplication, say)
    uses: dict[str, tuple[str, ...]]  # helpers that a section needs
    call: dict[str, int]  # bytes of a step's call, by kernel
    structs: dict[str, int]  # bytes of a descriptor
    stack: dict[str, int]  # bytes from the call of the smallest network on, by the innermost kernel of a step
    steps: dict[str, int]  # bytes of stack that a network takes beyond that, from so many steps on
    cycles: dict[str, float]  # by event, see predict.py; base: what any network takes
    unrolled: dict[str, float]  # bytes by what straight-line code consists of (unroll.py); empty: it is not made for the core
    streaming: dict[str, float]  # what rows take besides: bytes (code, of a line, stack by kind of step), and cycles by event


@functools.cache
def tables() -> dict[str, KernelCosts]:
    """Return what was measured, by core."""
    text = resources.files(__package__).joinpath("kernel_costs.toml").read_text(encoding="utf-8")
    return {
        core: KernelCosts(**row | {"uses": {section: tuple(names) for section, names in row["uses"].items()}})
        for core, row in tomllib.loads(text).items()
    }


def measured_costs(board: Board) -> KernelCosts | None:
    """Return what was measured on the core of ``board``, None if nothing was."""
    return tables().get(board.core)


def kernel_costs(board: Board) -> KernelCosts:
    """Return what was measured on the core of ``board``; raise BoardError if nothing was."""
    costs = measured_costs(board)
    if costs is None:
        raise BoardError(
            f"flash, RAM and cycles are predicted for measured cores only ({', '.join(sorted(tables()))}), but {board.name} has "
            f"a {board.core}; choose a board with one of these"
        )
    return costs


def variant(section: str, sum_bytes: int, padded: bool, paired: bool) -> str:
    """Return the name in the tables of a section of c/kernels.c: convolutions differ with SUM_BYTES, PADDED and PAIRED."""
    if section in ("convolve", "kept") or section.startswith("sums_"):
        return f"{section}.{sum_bytes}{'.padded' if padded else ''}{'' if paired else '.single'}"
    return f"{section}.{sum_bytes}" if section in ("requantise", "unrolled") else section
