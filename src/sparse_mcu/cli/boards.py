"""``sparse-mcu boards``. Imports nothing heavy."""

import dataclasses

from sparse_mcu.cli.output import memory, print_json, print_lines, print_table
from sparse_mcu.deploy.boards import Board, boards
from sparse_mcu.deploy.kernel_costs import measured_costs
from sparse_mcu.deploy.toolchain import obstacle

COLUMNS = ("name", "board", "core", ">RAM", ">flash", ">clock", "search", "verify")


def show(as_json: bool) -> None:
    """Print every board, whether networks can be searched for it, and what keeps it from being simulated on this machine."""
    rows = [(board, measured_costs(board) is not None, obstacle(board)) for board in boards()]
    if as_json:
        print_json([{**dataclasses.asdict(board), "searchable": known, "obstacle": reason} for board, known, reason in rows])
        return
    print_table(COLUMNS, [_cells(*row) for row in rows])
    lacking = {board.compiler: reason for board, known, reason in reversed(rows) if known and reason is not None}
    print_lines(list(lacking.values()))  # boards with the same compiler lack the same tools


def _cells(board: Board, known: bool, obstacle: str | None) -> tuple[str, ...]:
    sizes = (memory(board.ram_bytes), memory(board.flash_bytes), f"{board.clock_hz / 1e6:g} MHz")
    verify = "in simulation" if obstacle is None else "this machine only"
    return board.name, board.title, board.core_title, *sizes, "yes" if known else "not yet", verify if known else "not yet"
