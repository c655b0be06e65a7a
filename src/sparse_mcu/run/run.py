"""The Python face: start a search, go on with one, open a run, pick a model.

    run = search("digits", board="arduino-uno", ram="1K", flash="8K", time="10m")
    run.best().verify()

A budget of time or trials is a total: a resumed run counts what its earlier sessions used.
"""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sparse_mcu import data, deploy
from sparse_mcu.data import Dataset
from sparse_mcu.deploy import Board
from sparse_mcu.errors import BudgetError, RunError, UserError
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.run import record as records
from sparse_mcu.run.files import LOCK, locked, make_directory
from sparse_mcu.run.model import Model
from sparse_mcu.run.record import Record
from sparse_mcu.search import Budget, Ledger, Progress, SearchOptions
from sparse_mcu.search import search as search_on
from sparse_mcu.units import parse_bytes, parse_seconds

DEFAULT_SECONDS = 600.0
BEST = "best"
Observer = Callable[[Progress], None]
_DECIDE_RESULTS = ("sparse-mcu", "botorch", "gpytorch", "numpy", "optuna", "scikit-learn", "torch")


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory and what search was asked to do in it. What the search found is read when it is asked for."""

    path: Path
    record: Record

    @classmethod
    def load(cls, path: str | Path) -> "Run":
        """Open the run directory ``path``; another process may be searching in it."""
        return cls(Path(path), Record.read(Path(path)))

    @property
    def board(self) -> Board:
        """The board that the search was for."""
        return deploy.board(self.record.board)

    @property
    def options(self) -> SearchOptions:
        """What the search was told."""
        record = self.record
        return SearchOptions(
            board=self.board,
            budget=self.budget,
            seconds=record.seconds,
            trials=record.trials,
            seed=record.seed,
            workers=record.workers,
            device=record.device,
        )

    @property
    def budget(self) -> Budget:
        """The bytes that a network may take."""
        return Budget(self.record.ram_bytes, self.record.flash_bytes)

    @property
    def front(self) -> tuple[Model, ...]:
        """The models within the budget that no other beats in accuracy, flash and RAM together; the most accurate first."""
        with Ledger.open(self.path) as ledger:
            return tuple(Model(self, trial) for trial in ledger.front(self.budget))

    def best(self, ram: str | int | None = None, flash: str | int | None = None) -> Model:
        """Return the model most accurate on the validation split within ``ram`` and ``flash`` (the run's budget unless given)."""
        budget = Budget(_bytes(ram, self.record.ram_bytes), _bytes(flash, self.record.flash_bytes))
        with Ledger.open(self.path) as ledger:
            trial = ledger.best(budget)
        if trial is None:
            raise BudgetError(
                f"no network of {self.path} takes at most {budget.ram_bytes} bytes of RAM and {budget.flash_bytes} of flash; "
                "search longer or raise the budget"
            )
        return Model(self, trial)

    def model(self, name: int | str) -> Model:
        """Return the model of trial ``name``, or the best one for "best"."""
        if name == BEST:
            return self.best()
        if isinstance(name, str) and not name.isdecimal():
            raise UserError(f"a model is {BEST!r} or the number of a trial, but is {name!r}")
        with Ledger.open(self.path) as ledger:
            trial = ledger.record(int(name))
        if trial.state != "complete":
            raise RunError(f"only a complete trial has a network, but trial {name} is {trial.state}")
        return Model(self, trial)

    def graph(self, number: int) -> IntegerGraph:
        """Return the integer graph of trial ``number``."""
        with Ledger.open(self.path) as ledger:
            return ledger.graph(number)

    def dataset(self, source: str | Path | None = None) -> Dataset:
        """Load the run's data, from ``source`` where it moved; raise RunError if it is not what the search learnt from."""
        found = self.record.source if source is None else source
        dataset = data.load(found)
        if data.digest(dataset) != self.record.data_digest:
            raise RunError(f"a run goes on with the data it began with, but {found} has changed since {self.path} was made")
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
    out: str | Path | None = None,
    observer: Observer = _ignore,
) -> Run:
    """Search for networks for ``source`` that fit ``board``; return the run.

    ``time`` ("10m", or seconds) or ``trials`` is the search budget; 10 minutes unless given. ``ram`` and ``flash`` ("1K", or bytes)
    are the board's unless given. The run directory ``out`` (runs/NAME unless given) must not hold a run yet.
    """
    dataset = data.load(source)
    target = deploy.board(board)
    record = Record(
        source=_lasting(source),
        data_digest=data.digest(dataset),
        board=target.name,
        ram_bytes=_within("RAM", _bytes(ram, target.ram_bytes), target.ram_bytes, target),
        flash_bytes=_within("flash", _bytes(flash, target.flash_bytes), target.flash_bytes, target),
        seconds=_seconds(time, trials),
        trials=trials,
        seed=seed,
        workers=workers or len(os.sched_getaffinity(0)),
        device=device,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _DECIDE_RESULTS}},
    )
    run = Run(Path("runs", dataset.name) if out is None else Path(out), record)
    make_directory(run.path)
    with locked(run.path):
        _check_free(run.path)
        with Ledger.create(run.path) as ledger:
            record.write(run.path)  # last: what has a run.json is a run
            search_on(dataset, run.options, ledger, observer)
    return run


def resume(
    path: str | Path,
    *,
    source: str | Path | None = None,
    time: str | float | None = None,
    trials: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    observer: Observer = _ignore,
) -> Run:
    """Go on with the search in the run directory ``path``; return the run.

    It ends at the time or trials that it was started with, unless ``time`` or ``trials`` gives a new total. ``source`` says where
    the data are if they moved; they must be the same data.
    """
    run = Run.load(path)
    with locked(run.path):
        record = run.record
        if time is not None or trials is not None:
            record = replace(record, seconds=_seconds(time, trials), trials=trials)
        record = replace(
            record,
            source=record.source if source is None else _lasting(source),
            workers=workers or record.workers,
            device=device or record.device,
        )
        run = replace(run, record=record)
        dataset = run.dataset()
        with Ledger.open(run.path) as ledger:
            record.write(run.path)
            ledger.recover()
            search_on(dataset, run.options, ledger, observer)
    return run


def _lasting(source: str | Path) -> str:
    """Return ``source`` as it can be loaded from any working directory."""
    return str(source) if source in data.BUILT_IN else str(Path(source).resolve())


def _check_free(path: Path) -> None:
    """Raise RunError unless a new run may be made in the directory ``path``."""
    if (path / records.FILE).exists():
        raise RunError(f"a new search needs a directory of its own, but {path} holds a run; go on with it by --resume {path}")
    if any(entry.name != LOCK for entry in path.iterdir()):
        raise RunError(f"a new search needs an empty or a new directory, but {path} is not empty; name another by --out")


def _bytes(size: str | int | None, default: int) -> int:
    if size is None:
        return default
    return parse_bytes(size) if isinstance(size, str) else size


def _within(name: str, budget: int, limit: int, board: Board) -> int:
    if budget > limit:
        raise BudgetError(f"a budget must fit the board, but {budget} bytes of {name} are more than the {limit} of {board.name}")
    return budget


def _seconds(time: str | float | None, trials: int | None) -> float | None:
    """Return the search time, None where the budget is ``trials``."""
    if time is not None and trials is not None:
        raise UserError("a search ends after a time or a number of trials, but both are given; leave one out")
    if trials is not None:
        return None
    if time is None:
        return DEFAULT_SECONDS
    return parse_seconds(time) if isinstance(time, str) else float(time)
