"""``sparse-mcu search``: show progress, stop cleanly, print the front."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from sparse_mcu.cli.front import show_front
from sparse_mcu.cli.progress import shown
from sparse_mcu.run import Run


def show(search: Callable[..., Run], as_json: bool) -> None:
    """Call ``search(observer=...)`` and print the front of the run that it returns."""
    with _termination_is_interruption(), shown() as observer:
        run = search(observer=observer)
    if run.ending == "interrupted":
        print(f"stopped; sparse-mcu search --resume {run.path} goes on", file=sys.stderr)
    show_front(run, as_json)


@contextlib.contextmanager
def _termination_is_interruption() -> Iterator[None]:
    """Let SIGTERM stop a search as Ctrl-C does: what is finished is kept and the front is printed."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
