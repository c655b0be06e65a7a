"""``sparse-mcu boards``. Imports nothing heavy."""

import dataclasses

from sparse_mcu.cli.output import memory, print_json, print_lines, print_table
from sparse_mcu.deploy.boards import Board, boards
from sparse_mcu.deploy.toolchain import obstacle

COLUMNS = ("name", "board", "core", ">RAM", ">flash", ">clock", "verified")


def show(as_json: bool) -> None:
    """Print every board, and what keeps it from being simulated on this machine."""
    rows = [(board, obstacle(board)) for board in boards()]
    if as_json:
        print_json([{**dataclasses.asdict(board), "obstacle": reason} for board, reason in rows])
        return
    print_table(COLUMNS, [_cells(board, reason is None) for board, reason in rows])
    lacking = [reason for board, reason in rows if board.simulator is not None and reason is not None]
    print_lines(lacking[:1])  # the others lack the same tools


def _cells(board: Board, simulated: bool) -> tuple[str, ...]:
    sizes = (memory(board.ram_bytes), memory(board.flash_bytes), f"{board.clock_hz / 1e6:g} MHz")
    return board.name, board.title, board.core_title, *sizes, "in simulation" if simulated else "on this machine only"
