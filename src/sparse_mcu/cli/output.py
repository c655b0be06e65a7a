"""What the commands print: tables and lines for people, JSON for scripts; both on stdout."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

WIDE = 240  # columns where stdout is no terminal: nothing is wrapped on its way into a file


def console() -> Console:
    """Return a console on stdout; it has colours on a terminal only, and takes [brackets] as they are."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE)


def print_json(value: Any) -> None:
    """Print ``value`` as JSON."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(
    header: Sequence[str],  # a name that starts with ">" heads a column of numbers, set to the right
    rows: Iterable[Sequence[str]],
    marked: int | None = None,  # index of the row set in bold
) -> None:
    """Print ``rows`` under ``header``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    for index, row in enumerate(rows):
        table.add_row(*row, style="bold" if index == marked else None)
    console().print(table)


def print_lines(lines: Iterable[str]) -> None:
    """Print ``lines`` as they are."""
    for line in lines:
        typer.echo(line)


def memory(size: int) -> str:
    """Return a memory's size as its data sheet writes it, such as 512 B or 32 KB."""
    return f"{size // 1024} KB" if size % 1024 == 0 else f"{size} B"
