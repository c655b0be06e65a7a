"""Worker processes that train and measure networks, one task at a time each.

Every worker talks to the search through its own pipe: one that dies (out of memory, killed) takes no other's task with it and is
replaced, and all of them end when the search does, however it ends. The images are written once to files that all
workers map into memory; the test split is not among them. A worker imports no optimiser: neither Optuna nor BoTorch.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from sparse_mcu.data.dataset import Dataset, Split
from sparse_mcu.errors import RunError, SparseMcuError


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The two splits that a search may look at."""

    train: Split
    validation: Split


Outcome = TypeVar("Outcome")
# (data, device, deadline by time.monotonic or None) -> outcome. A function of a module, or a partial of one: workers import it.
Task = Callable[[TrainingData, str, float | None], Outcome]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task came to nothing."""

    message: str
    traceback: str | None  # of a fault of ours; None where the message says it all


@dataclass(frozen=True, slots=True, eq=False)
class Finished(Generic[Outcome]):
    """The end of one task."""

    number: int
    outcome: Outcome | Failure
    seconds: float


class Workers(Generic[Outcome]):
    """``count`` processes; use as a context manager."""

    def __init__(self, dataset: Dataset, device: str, count: int) -> None:
        self._files = _shared(dataset)
        self._arguments = (Path(self._files.name), device)
        self._workers: list[_Worker[Outcome]] = [_Worker(*self._arguments) for _ in range(count)]

    def __enter__(self) -> "Workers[Outcome]":
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._files.cleanup()

    @property
    def idle(self) -> int:
        """Number of workers that wait for a task."""
        return sum(worker.number is None for worker in self._workers)

    @property
    def running(self) -> list[int]:
        """Numbers of the tasks that are being worked on."""
        return [worker.number for worker in self._workers if worker.number is not None]

    def submit(self, number: int, task: Task[Outcome], deadline: float | None) -> None:
        """Give a task to an idle worker; ``number`` is what its end will be told by."""
        next(worker for worker in self._workers if worker.number is None).submit(number, task, deadline)

    def wait(self, timeout: float) -> list[Finished[Outcome]]:
        """Return what finished, as soon as something did or after ``timeout`` seconds; replace the workers that died."""
        finished = []
        by_connection = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), timeout):
            worker = by_connection[connection]  # type: ignore[index]  # wait returns what it was given
            try:
                outcome = worker.receive()
            except (EOFError, ConnectionError):
                outcome = worker.epitaph()
                self._replace(worker)
            if outcome is not None:
                finished.append(outcome)
        return finished

    def _replace(self, worker: "_Worker[Outcome]") -> None:
        worker.kill()
        self._workers[self._workers.index(worker)] = _Worker(*self._arguments)


class _Worker(Generic[Outcome]):
    """One process, seen from the search."""

    def __init__(self, files: Path, device: str) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of torch hold
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, files, device), daemon=True)
        with _interrupts_blocked():
            self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self._ready = False
        self.number: int | None = None
        self._since = 0.0

    def submit(self, number: int, task: Task[Outcome], deadline: float | None) -> None:
        self.number, self._since = number, time.monotonic()
        # A worker that is dead is found out, and replaced, by the next wait.
        with contextlib.suppress(ConnectionError):
            self.connection.send((task, deadline))

    def receive(self) -> Finished[Outcome] | None:
        """Return the result that has arrived, or None for the sign that the worker is ready."""
        message = self.connection.recv()
        if message is None:
            self._ready = True
            return None
        outcome, seconds = message
        assert self.number is not None
        number, self.number = self.number, None
        return Finished(number, outcome, seconds)

    def epitaph(self) -> Finished[Outcome] | None:
        """Say how the dead worker's task ended. Raises RunError if it never came to life: then no other would."""
        self._process.join()
        if not self._ready:
            raise RunError(
                f"a search needs worker processes, but one {self._cause()} while it started; "
                "a script that searches does so under: if __name__ == '__main__':"
            )
        if self.number is None:
            return None
        failure = Failure(f"the worker process {self._cause()}", traceback=None)
        return Finished(self.number, failure, time.monotonic() - self._since)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _cause(self) -> str:
        status = self._process.exitcode or 0
        if status >= 0:
            return f"ended with status {status}"
        hint = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-status).name}{hint}"


def _serve(connection: Connection, files: Path, device: str) -> None:
    """Do what arrives until the pipe closes: the life of a worker."""
    threading.Thread(target=_die_with_parent, args=(files,), daemon=True).start()
    data = _mapped(files)
    connection.send(None)
    while True:
        try:
            task, deadline = connection.recv()
        except EOFError:
            return
        start = time.monotonic()
        outcome = _attempt(task, data, device, deadline)
        connection.send((outcome, time.monotonic() - start))


def _attempt(task: Task[Outcome], data: TrainingData, device: str, deadline: float | None) -> Outcome | Failure:
    try:
        return task(data, device, deadline)
    except (SparseMcuError, MemoryError) as error:
        return Failure(f"{type(error).__name__}: {error}", traceback=None)
    except Exception as error:  # nothing is swallowed: the whole of it travels to the search
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _die_with_parent(files: Path) -> None:
    """End this process, in the middle of a task if need be, when the search's process is gone, and leave no ``files`` behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(files, ignore_errors=True)  # what is mapped stays readable for the other workers until they end too
    os._exit(1)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: the search stops them. A process inherits what its parent blocks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shared(dataset: Dataset) -> tempfile.TemporaryDirectory[str]:
    """Write what workers may see of ``dataset`` into a temporary directory."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="sparse-mcu-")
        for name in ("train", "validation"):
            split = dataset.splits[name]
            np.save(Path(directory.name) / f"{name}_images.npy", split.images)
            np.save(Path(directory.name) / f"{name}_labels.npy", split.labels)
    except OSError as error:
        raise RunError(
            f"workers read the images from {tempfile.gettempdir()}, but it cannot be written: {error.strerror or error}; "
            "make room there or set TMPDIR"
        ) from error
    return directory


def _mapped(files: Path) -> TrainingData:
    """Map the arrays, copy on write: read-only ones cannot become tensors without a warning."""

    def load(name: str) -> Split:
        images, labels = (
            np.load(files / f"{name}_{part}.npy", mmap_mode="c", allow_pickle=False) for part in ("images", "labels")
        )
        return Split(images, labels)

    return TrainingData(load("train"), load("validation"))
