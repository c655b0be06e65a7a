"""``sparse-mcu front``: the Pareto front of a run."""

from pathlib import Path
from typing import Any

from sparse_mcu.cli.output import print_json, print_lines, print_table
from sparse_mcu.run import Run


def show(path: Path, as_json: bool) -> None:
    """Print the front of the run at ``path``."""
    show_front(Run.load(path), as_json)


def show_front(run: Run, as_json: bool) -> None:
    """Print the front of ``run``, the best model first."""
    rows = [model.to_json() for model in run.front]
    if as_json:
        print_json(_json(run, rows))
        return
    if not rows:
        print_lines([f"no network of {run.path} is within {run.budget} yet"])
        return
    unit = run.board.time_unit
    header = (">trial", ">accuracy", ">flash", ">RAM", ">weights", ">bits", ">work. mem.", ">MACs", f">{unit}", ">ms", "stage")
    print_table(header, map(_cells, rows), marked=0)
    print_lines(
        [
            "",
            f"Best within {run.budget}: trial {rows[0]['number']}.",
            f"Accuracy of the integer network on the validation split; bytes and {unit} as predicted for {run.board.title}.",
        ]
    )


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("flash_bytes", "ram_bytes", "model_size", "weight_bits", "working_memory_2", "macs", "cycles")
    milliseconds = row["milliseconds"]
    return (
        str(row["number"]),
        f"{row['validation_accuracy']:.2%}",
        *(f"{row[name]:,.0f}" for name in names),
        "-" if milliseconds is None else f"{milliseconds:.1f}",
        row["stage"] or "",
    )


def _json(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "board": run.board.name,
        "budget": dict(run.budget.limits),
        "objectives": list(run.record.objectives),
        "best": rows[0]["number"] if rows else None,
        "front": rows,
    }
