"""The Python face: start a search, go on with one, open a run, pick a model.

    run = search("digits", board="arduino-uno", ram="1K", flash="8K", time="10m")
    run.best().verify()

A budget of time or trials is a total: a resumed run counts what its earlier sessions used.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_mcu import data
from sparse_mcu.data import Dataset
from sparse_mcu.deploy import boards
from sparse_mcu.errors import BudgetError, RunError, UserError, unknown_name
from sparse_mcu.run import record as records
from sparse_mcu.run.files import LOCK, locked, make_directory
from sparse_mcu.run.model import Model
from sparse_mcu.run.record import Record
from sparse_mcu.search.ledger import ARTIFACTS, DATABASE, Ledger
from sparse_mcu.search.objectives import DEFAULT_OBJECTIVES, LIMITED, Budget
from sparse_mcu.search.options import OURS, Progress, SearchOptions
from sparse_mcu.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from sparse_mcu.search.loop import Ending, Observer

DEFAULT_SECONDS = 600.0
BEST = "best"
_DECIDE_RESULTS = ("sparse-mcu", "botorch", "gpytorch", "numpy", "optuna", "scikit-learn", "torch")


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory. What the search found is read when it is asked for; another process may be searching meanwhile."""

    path: Path
    record: Record
    ending: "Ending | None" = field(default=None, compare=False)  # of the search that returned this run; None for a loaded one

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Open the run directory ``path``."""
        return cls(Path(path), Record.read(Path(path)))

    @property
    def board(self) -> boards.Board:
        """The board that the search is for."""
        return boards.board(self.record.board)

    @property
    def budget(self) -> Budget:
        """What a network may take."""
        return self.record.budget

    @property
    def front(self) -> tuple[Model, ...]:
        """The models within the budget that no other beats in all of the run's objectives; the most accurate first."""
        with Ledger.open(self.path) as ledger:
            return tuple(Model(self, trial) for trial in ledger.front(self.budget))

    def best(self, ram: str | int | None = None, flash: str | int | None = None) -> Model:
        """Return the model most accurate on the validation split within ``ram`` and ``flash`` (the run's budget unless given)."""
        whole = self.budget
        budget = replace(whole, ram_bytes=_bytes(ram, whole.ram_bytes), flash_bytes=_bytes(flash, whole.flash_bytes))
        with Ledger.open(self.path) as ledger:
            trial = ledger.best(budget)
        if trial is None:
            raise BudgetError(f"no network of {self.path} takes at most {budget}; search longer or raise the budget")
        return Model(self, trial)

    def model(self, name: int | str) -> Model:
        """Return the model of trial number ``name``, or the best one for "best"."""
        if name == BEST:
            return self.best()
        if isinstance(name, str) and not name.isdecimal():
            raise UserError(f"a model is {BEST!r} or the number of a trial, but is {name!r}")
        with Ledger.open(self.path) as ledger:
            trial = ledger.record(int(name))
        if trial.state != "complete":
            raise RunError(f"only a complete trial has a network, but trial {name} is {trial.state}")
        return Model(self, trial)

    def dataset(self, source: str | Path | None = None) -> Dataset:
        """Load the run's data, from ``source`` if they moved; raise RunError where they are not what the search learnt from."""
        found = self.record.source if source is None else source
        dataset = data.load(found)
        if data.digest(dataset) != self.record.data_digest:
            raise RunError(
                f"a run stays with the data that it began with, but {found} holds other data than {self.path} was made of"
            )
        return dataset


def _ignore(_: Progress) -> None:
    """Observe nothing."""


def search(
    source: str | Path,
    *,
    board: str,
    time: str | float | None = None,
    trials: int | None = None,
    ram: str | int | None = None,
    flash: str | int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    max_cycles: int | None = None,
    max_ms: float | None = None,
    limits: Mapping[str, int] | None = None,
    sampler: str = OURS,
    out: str | Path | None = None,
    observer: "Observer" = _ignore,
) -> Run:
    """Search for networks for ``source`` that fit ``board``; return the run. Ctrl-C ends the search, not the program.

    ``time`` ("10m", or seconds) or ``trials`` is the budget of the search, 10 minutes unless given. ``ram`` and ``flash``
    ("1K", or bytes) are the budget of a network, the board's unless given; ``max_cycles`` or ``max_ms`` limits one
    inference (cycles are instructions on boards that count these), ``limits`` its counts by name: model_size,
    working_memory, macs. ``objectives`` names what the front trades off, ``sampler`` the optimiser. ``workers`` networks
    train at once, as many as there are cores unless given. The run directory ``out`` (runs/NAME unless given) must be new
    or empty.
    """
    target = boards.board(board)
    dataset = data.load(source)
    record = Record(
        source=_lasting(source),
        data_digest=data.digest(dataset),
        board=target.name,
        ram_bytes=_budget(ram, "RAM", target.ram_bytes, target),
        flash_bytes=_budget(flash, "flash", target.flash_bytes, target),
        cycles=_cycles(max_cycles, max_ms, target),
        limits=_limits(limits or {}),
        seconds=_seconds(DEFAULT_SECONDS if time is None and trials is None else time),
        trials=trials,
        seed=seed,
        workers=len(os.sched_getaffinity(0)) if workers is None else workers,
        device=device,
        objectives=tuple(objectives),
        sampler=sampler,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
    )
    options = record.options  # before anything is written: it refuses what makes no sense
    run = Run(Path("runs", dataset.name) if out is None else Path(out), record)
    make_directory(run.path)
    with locked(run.path), _cleared_if_untried(run.path), Ledger.create(run.path, options.goal.minimised) as ledger:
        record.write(run.path)  # after the ledger: what has a run.json is a run
        return _search(run, options, dataset, ledger, observer)


def resume(
    path: str | Path,
    *,
    source: str | Path | None = None,
    time: str | float | None = None,
    trials: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    observer: "Observer" = _ignore,
) -> Run:
    """Go on with the search in the run directory ``path``; return the run.

    It ends at the time or trials that it was started with, unless ``time`` or ``trials`` gives a new total. ``source`` says where
    the data are if they moved.
    """
    run = Run.load(path)
    with locked(run.path):
        run = replace(run, record=_adjusted(Record.read(run.path), source, time, trials, workers, device))
        options, dataset = run.record.options, run.dataset()
        with Ledger.resume(run.path) as ledger:
            run.record.write(run.path)
            return _search(run, options, dataset, ledger, observer)


def _search(run: Run, options: SearchOptions, dataset: Dataset, ledger: Ledger, observer: "Observer") -> Run:
    from sparse_mcu.search.loop import (
        search as search_into,
    )  # here: it imports PyTorch, and who reads a run should not wait for that

    try:
        return replace(run, ending=search_into(dataset, options, ledger, observer))
    except KeyboardInterrupt:  # before the first trial
        return replace(run, ending="interrupted")


def _adjusted(
    record: Record,
    source: str | Path | None,
    time: str | float | None,
    trials: int | None,
    workers: int | None,
    device: str | None,
) -> Record:
    """Return ``record`` with what is not None replaced."""
    if time is not None or trials is not None:
        record = replace(record, seconds=_seconds(time), trials=trials)
    return replace(
        record,
        source=record.source if source is None else _lasting(source),
        workers=record.workers if workers is None else workers,
        device=record.device if device is None else device,
    )


@contextlib.contextmanager
def _cleared_if_untried(path: Path) -> Iterator[None]:
    """Check that ``path`` is free; leave it so where no trial is completed, so that the user can put right what was wrong."""
    if (path / records.FILE).exists():
        raise RunError(f"a new search needs a directory of its own, but {path} holds a run; --resume {path} goes on with it")
    if any(entry.name != LOCK for entry in path.iterdir()):
        raise RunError(f"a new search needs a new or an empty directory, but {path} is neither; name another")
    try:
        yield
    except UserError:
        if not any((path / ARTIFACTS).glob("*")):
            for made in (path / records.FILE, *path.glob(f"{DATABASE}*")):  # SQLite's write-ahead log too
                made.unlink(missing_ok=True)
            shutil.rmtree(path / ARTIFACTS, ignore_errors=True)
        raise


def _lasting(source: str | Path) -> str:
    """Return ``source`` as it can be loaded from any working directory."""
    return str(source) if source in data.BUILT_IN else str(Path(source).resolve())


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _DECIDE_RESULTS}}


def _budget(size: str | int | None, name: str, limit: int, board: boards.Board) -> int:
    """Return the bytes of ``size``, ``limit`` unless given."""
    budget = _bytes(size, limit)
    if not 0 < budget <= limit:
        raise BudgetError(f"a {name} budget must be from 1 to the {limit} bytes of {board.name}, but is {budget}")
    return budget


def _cycles(cycles: int | None, milliseconds: float | None, board: boards.Board) -> int | None:
    """Return the cycles that one inference may take, None for no limit."""
    if milliseconds is None:
        if cycles is not None and cycles < 1:
            raise BudgetError(f"a network must have at least 1 cycle, but may have {cycles}")
        return cycles
    if cycles is not None:
        raise UserError("the time of an inference is limited once, but both cycles and milliseconds are given; leave one out")
    each = board.milliseconds(1.0)
    if each is None:
        raise UserError(f"{board.name} counts instructions, whose time is not known; limit these with max cycles instead")
    if not milliseconds > 0.0:
        raise BudgetError(f"a network must have some time, but may have {milliseconds} ms")
    return max(1, int(milliseconds / each))


def _limits(limits: Mapping[str, int]) -> dict[str, int]:
    """Return ``limits`` of what can be limited by name."""
    for name, limit in limits.items():
        if name not in LIMITED:
            raise UserError(unknown_name("limit", name, tuple(LIMITED)))
        if limit < 1:
            raise BudgetError(f"a network must have {name} of at least 1, but may have {limit}")
    return dict(limits)


def _bytes(size: str | int | None, default: int) -> int:
    if size is None:
        return default
    return parse_bytes(size) if isinstance(size, str) else size


def _seconds(time: str | float | None) -> float | None:
    return parse_seconds(time) if isinstance(time, str) else time
