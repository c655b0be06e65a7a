"""The boards that networks are made for: rows of boards.toml. Imports nothing heavy: the command line lists them at once."""

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from sparse_mcu.errors import BoardError, unknown_name

Simulator = Literal["simavr", "qemu"]  # simavr counts cycles, QEMU instructions
TimeUnit = Literal["cycles", "instructions"]


@dataclass(frozen=True, slots=True)
class Board:
    """A microcontroller with its clock, and the tools that build and run programs for it."""

    name: str
    title: str
    core: str  # boards of the same core run the same code
    core_title: str
    mcu: str
    ram_bytes: int
    flash_bytes: int
    clock_hz: int
    compiler: str
    flags: tuple[str, ...]  # of the compiler and of the linker
    packages: tuple[str, ...]  # of Debian, that bring the compiler
    dense: Literal["pairs", "words", "channels"]  # in which order it reads weights that are all stored (deploy/encode.py)
    simulator: Simulator | None  # None: programs for it are not run here, only checked on the host

    @property
    def is_avr(self) -> bool:
        """Whether constants are read from flash by instructions of their own, and addresses have 16 bits."""
        return self.core.startswith("avr")

    @property
    def time_unit(self) -> TimeUnit:
        """What the time of a run is counted in on this board."""
        return "instructions" if self.simulator == "qemu" else "cycles"

    def milliseconds(self, count: float) -> float | None:
        """Return how long ``count`` of ``time_unit`` take; None for instructions, whose time is not known."""
        return 1e3 * count / self.clock_hz if self.time_unit == "cycles" else None


@functools.cache
def boards() -> tuple[Board, ...]:
    """Return all boards, from the smallest RAM to the largest."""
    text = resources.files(__package__).joinpath("boards.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    rows = (_board(name, row, tables["cores"][row["core"]]) for name, row in tables["boards"].items())
    return tuple(sorted(rows, key=lambda row: (row.ram_bytes, row.flash_bytes)))


def board(name: str) -> Board:
    """Return the board called ``name``; raise BoardError with the nearest names if there is none."""
    for row in boards():
        if row.name == name:
            return row
    raise BoardError(unknown_name("board", name, (row.name for row in boards())))


def _board(name: str, row: dict[str, str | int], core: dict[str, str | list[str]]) -> Board:
    """Join a board's row with its core's. A missing or unknown key is a fault of boards.toml, and raises."""
    shared = {key: tuple(value) if isinstance(value, list) else value for key, value in core.items() if key != "title"}
    flags = tuple(flag.format(mcu=row["mcu"]) for flag in core["flags"])
    return Board(**{"simulator": None} | shared | row | {"name": name, "core_title": core["title"], "flags": flags})  # type: ignore[arg-type]
