"""How a search shows its progress on stderr: one live line on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from sparse_mcu.search.options import Progress
from sparse_mcu.units import format_seconds

PLAIN_SECONDS = 10.0  # between two plain lines

Observer = Callable[[Progress], None]


@contextlib.contextmanager
def shown() -> Iterator[Observer]:
    """Yield an observer of a search that shows what it is told."""
    if sys.stderr.isatty():
        with Bar(
            SpinnerColumn(), BarColumn(20), TextColumn("{task.description}", markup=False), console=Console(stderr=True)
        ) as bar:
            task = bar.add_task("starting", total=None)
            yield lambda progress: bar.update(task, description=summary(progress), completed=progress.share, total=1.0)
    else:
        yield PlainLines(time.monotonic)


class PlainLines:
    """Prints a line where the stage changes, and otherwise every PLAIN_SECONDS."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._printed = clock()

    def __call__(self, progress: Progress) -> None:
        """Print ``progress`` if it is time to."""
        now = self._clock()
        if progress.stage == self._stage and now - self._printed < PLAIN_SECONDS:
            return
        self._stage, self._printed = progress.stage, now
        print(summary(progress), file=sys.stderr, flush=True)


def summary(progress: Progress) -> str:
    """Return ``progress`` in one line."""
    counts = {"failed": progress.failed, "stopped early": progress.stopped, "refused": progress.refused}
    others = "".join(f", {count} {name}" for name, count in counts.items() if count)
    left = "" if progress.seconds_left is None else f", {format_seconds(progress.seconds_left)} left"
    if progress.stage == "teacher":
        return f"teacher: a larger network to learn from is trained{left}"
    alone = "" if progress.taught else ", without a teacher"
    if progress.best_accuracy is None:
        return f"{progress.stage}: {progress.done} trials{others}{alone}{left}, none within the budget yet"
    best = f"best {progress.best_accuracy:.2%}, hypervolume {progress.hypervolume:.4f}"
    return f"{progress.stage}: {progress.done} trials{others}{alone}{left}, {best}"
