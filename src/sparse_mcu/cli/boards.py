"""``sparse-mcu boards``. Imports nothing heavy."""

import dataclasses

from sparse_mcu.cli.output import memory, print_json, print_table
from sparse_mcu.deploy.boards import boards


def show(as_json: bool) -> None:
    """Print every board."""
    if as_json:
        print_json([dataclasses.asdict(board) for board in boards()])
        return
    rows = [
        (row.name, row.title, row.core_title, memory(row.ram_bytes), memory(row.flash_bytes), f"{row.clock_hz / 1e6:g} MHz")
        for row in boards()
    ]
    print_table(("name", "board", "core", ">RAM", ">flash", ">clock"), rows)
