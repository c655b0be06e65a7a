"""What C is made for: a board, the memory to keep within on it, and what matters most of flash and time."""

from dataclasses import dataclass
from typing import Literal, get_args

from sparse_mcu.deploy.boards import Board
from sparse_mcu.errors import UserError, unknown_name

Optimise = Literal["size", "balanced", "speed"]
OPTIMISE: tuple[Optimise, ...] = get_args(Optimise)


def parse_optimise(name: str) -> Optimise:
    """Return ``name`` if it is one of OPTIMISE; raise UserError if not."""
    if name in OPTIMISE:
        return name
    raise UserError(unknown_name("aim of optimising", name, OPTIMISE))


@dataclass(frozen=True, slots=True)
class Target:
    """A board with a budget. Any board will do for "balanced", the others need one whose core has been measured.

    Size is the least flash; balanced has kernels that compute two windows at a time and weights in few bytes, but not at any
    price in time; speed is the fewest cycles that the flash has room for.
    """

    board: Board
    ram_bytes: int | None = None  # None: all that the board has
    flash_bytes: int | None = None
    optimise: Optimise = "balanced"

    def __post_init__(self) -> None:
        """Raise UserError where ``optimise`` is none of OPTIMISE."""
        parse_optimise(self.optimise)

    @property
    def ram_limit(self) -> int:
        """Bytes of RAM to keep within."""
        return self.board.ram_bytes if self.ram_bytes is None else self.ram_bytes

    @property
    def flash_limit(self) -> int:
        """Bytes of flash to keep within."""
        return self.board.flash_bytes if self.flash_bytes is None else self.flash_bytes
