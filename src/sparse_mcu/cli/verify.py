"""``sparse-mcu verify``: what the board does, beside what was predicted."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from sparse_mcu.cli.output import print_json, print_lines, print_table
from sparse_mcu.deploy.simulation import Progress
from sparse_mcu.deploy.target import Optimise
from sparse_mcu.deploy.verification import Verification
from sparse_mcu.errors import ToolchainError
from sparse_mcu.run import Run


def verify(
    path: Path,
    name: str,
    board: str | None,
    data: str | None,
    optimise: Optimise,
    images: int | None,
    reentrant: bool,
    as_json: bool,
) -> bool:
    """Verify model ``name`` of the run at ``path`` on ``board``, print the figures; return whether every logit agrees.

    Raises ToolchainError, after the figures of this machine, where ``board`` cannot be simulated here.
    """
    model = Run.load(path).model(name)
    with shown() as progress:
        verification = model.verify(board, data, progress, optimise, images, reentrant)
    if as_json:
        print_json({"model": model.number, "optimise": optimise, "reentrant": reentrant, **verification.to_json()})
    else:
        print_verification(verification, f"trial {model.number}")
    if verification.not_simulated is not None:
        raise ToolchainError(verification.not_simulated)
    return verification.mismatches == 0


@contextlib.contextmanager
def shown() -> Iterator[Progress | None]:
    """Yield what shows the images simulated on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("simulating"), BarColumn(20), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_verification(verification: Verification, name: str) -> None:
    """Print what was measured beside what was predicted, and whether all agree."""
    predicted = (verification.predicted_flash_bytes, verification.predicted_ram_bytes, verification.predicted_cycles)
    measured = verification.measured
    figures = (None,) * 3 if measured is None else (measured.flash_bytes, measured.ram_bytes, measured.cycles)
    print_lines([f"{name} on {verification.board}, {verification.images} test images", ""])
    rows = zip(("flash bytes", "RAM bytes", verification.time_unit), figures, predicted, strict=True)
    print_table(("", ">measured", ">predicted", ">difference"), [_compare(*row) for row in rows])
    print_lines(["", *_lines(verification)])


def _compare(name: str, measured: int | None, predicted: int) -> tuple[str, str, str, str]:
    if measured is None:
        return name, "-", f"{predicted:,}", "-"
    return name, f"{measured:,}", f"{predicted:,}", f"{predicted - measured:+,} ({predicted / measured - 1:+.1%})"


def _lines(verification: Verification) -> Iterator[str]:
    measured = verification.measured
    places = {"NumPy": verification.numpy_accuracy, "C on this machine": verification.host_accuracy}
    if measured is not None:
        part = measured.simulated_images < verification.images
        first = f", on the first {measured.simulated_images:,} images," if part else ""
        places[f"C on the simulated board{first}"] = measured.accuracy
        time = "" if measured.milliseconds is None else f"an inference takes {measured.milliseconds:.1f} ms"
        if measured.core_cycles is not None:
            time += f", {measured.core_cycles:,} cycles, by the timings of the core's manual"
        yield "; ".join(filter(None, (time, measured.compiler, measured.simulator)))
    yield "test accuracy: " + ", ".join(f"{place} {accuracy:.2%}" for place, accuracy in places.items())
    yield f"multiply-accumulates: {verification.nonzero_macs:,} of {verification.macs:,}"
    agree = verification.mismatches == 0
    yield "every logit of every image agrees" if agree else f"{verification.mismatches} logits DIFFER between these"
