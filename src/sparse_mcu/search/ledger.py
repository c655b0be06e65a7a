"""The ledger of a search: an Optuna study in the run directory, and beside it what each trial left.

    study.db               SQLite; any tool that reads Optuna studies opens it
    artifacts/000012/      of trial 12: graph.safetensors, weights.safetensors, log.json
    artifacts/teacher/     logits.safetensors: what the candidates learn beside the labels

A trial's artefacts are there, whole, before the study says that it is complete. Whatever kills the process in between, the
trial then still counts as running, and ``resume`` records it as interrupted. One process writes; others may read meanwhile.
"""

import contextlib
import functools
import itertools
import json
import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as serialise
from sqlalchemy.exc import SQLAlchemyError

from sparse_mcu.errors import RunError
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.storage import GraphFileError, load, save
from sparse_mcu.search import records
from sparse_mcu.search.candidate import Evaluation, Teacher, Weights
from sparse_mcu.search.objectives import MINIMISED, UNITS, Budget
from sparse_mcu.search.omega import choose_by
from sparse_mcu.search.pareto import non_dominated
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import suggest

DATABASE = "study.db"
ARTIFACTS = "artifacts"
STUDY = "sparse-mcu"
GRAPH, WEIGHTS, LOG = "graph.safetensors", "weights.safetensors", "log.json"
TEACHER, LOGITS = "teacher", "logits.safetensors"
SECONDS_USED, LIMITS = "seconds_used", "limits"  # of the study
# How long a reader or writer waits for the other's transaction, which takes milliseconds.
LOCK_TIMEOUT_SECONDS = 30.0


class Ledger:
    """The trials of one run: ``create`` and ``resume`` to search, ``open`` to read."""

    def __init__(self, directory: Path, storage: RDBStorage, study: optuna.Study, *, writes: bool) -> None:
        self.directory = directory
        self._writes = writes
        self.study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(STUDY)
        self._finished: dict[int, TrialRecord] = {}

    @classmethod
    def create(cls, directory: Path, minimised: Sequence[str] = MINIMISED) -> "Ledger":
        """Make an empty ledger in ``directory``, which exists, of a search that minimises ``minimised`` (names of UNITS)."""
        if (directory / DATABASE).exists():
            raise RunError(f"a new search needs a directory without one, but {directory} has a {DATABASE}; resume it instead")
        with _writing(directory), _quiet():
            (directory / ARTIFACTS).mkdir(exist_ok=True)
            storage = _storage(directory / DATABASE, _writable)
            study = optuna.create_study(storage=storage, study_name=STUDY, directions=["minimize"] * len(minimised))
            study.set_metric_names(list(minimised))
            study.set_user_attr("units", UNITS)
            return cls(directory, storage, study, writes=True)

    @classmethod
    def resume(cls, directory: Path) -> "Ledger":
        """Open the ledger in ``directory`` to go on with it; for one process at a time.

        Trials that count as running belonged to a process that is dead: they are recorded as interrupted.
        """
        cls.open(directory).close()  # so that a file that is none of ours is not told to be one that cannot be written
        with _writing(directory):
            ledger = cls._load(directory, _writable)
            ledger.seconds_used = ledger.seconds_used  # a directory that is read-only is told now, not when a trial is done
            ledger.interrupt_running()
        return ledger

    @classmethod
    def open(cls, directory: Path) -> "Ledger":
        """Open the ledger in ``directory`` to read; another process may be searching in it."""
        if not (directory / DATABASE).is_file():
            raise RunError(f"a run directory holds a {DATABASE}, but {directory} does not; name one that search made")
        try:
            return cls._load(directory, _readable)
        except (SQLAlchemyError, StorageInternalError, KeyError, RuntimeError) as error:
            raise RunError(
                f"{directory / DATABASE} must be a study of sparse-mcu, but cannot be read: {_reason(error)}"
            ) from error

    @classmethod
    def _load(cls, directory: Path, connect: Callable[[Path], sqlite3.Connection]) -> "Ledger":
        storage = _storage(directory / DATABASE, connect)
        study = optuna.load_study(study_name=STUDY, storage=storage)
        return cls(directory, storage, study, writes=connect is _writable)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database. A writer leaves it as a single file, which can be read where nothing can be written."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        if self._writes:
            _end_log(self.directory / DATABASE)

    def ask(self, limits: SpaceLimits) -> TrialRecord:
        """Begin a trial: let the study's sampler walk Ω, and record the architecture that it arrived at."""
        with _writing(self.directory):
            trial = self.study.ask()
            architecture = suggest(limits, choose_by(trial))
            trial.set_user_attr(records.ARCHITECTURE, architecture.to_json())
            return self.record(trial.number)

    def complete(self, number: int, evaluation: Evaluation, seconds: float, excesses: Mapping[str, float] | None = None) -> None:
        """Keep what trial ``number`` measured and left; ``excesses`` are its constraints for Optuna, kept up to 0."""
        with _writing(self.directory):
            self._write_artefacts(self._artefacts(number), functools.partial(_write_evaluation, evaluation))
            trial_id = self._trial_id(number)
            notes = {
                records.OBJECTIVES: dict(evaluation.objectives),
                records.RUNGS: [dict(measured) for measured in evaluation.rungs],
                records.STOPPED: evaluation.stopped,
                records.SECONDS: seconds,
            }
            for name, value in notes.items():
                self._storage.set_trial_user_attr(trial_id, name, value)
            for name, excess in (excesses or {}).items():
                optuna.Trial(self.study, trial_id).set_constraint(name, excess)
            self.study.tell(number, [evaluation.objectives[name] for name in self.minimised])

    def refuse(self, number: int, shortfall: str) -> None:
        """Record that the candidate of trial ``number`` could not have fitted, and why, so that it is not evaluated."""
        with _writing(self.directory):
            self._storage.set_trial_user_attr(self._trial_id(number), records.SHORTFALL, shortfall)
            self.study.tell(number, state=TrialState.FAIL)

    def fail(self, number: int, error: str, seconds: float | None = None) -> None:
        """Record that trial ``number`` failed, and why."""
        with _writing(self.directory):
            trial_id = self._trial_id(number)
            self._storage.set_trial_user_attr(trial_id, records.ERROR, error)
            self._storage.set_trial_user_attr(trial_id, records.SECONDS, seconds)
            self.study.tell(number, state=TrialState.FAIL)

    def interrupt_running(self) -> None:
        """Record that the search ended before the running trials did, and remove what they left."""
        with _writing(self.directory):
            for record in self.records():
                if record.state == "running":
                    self._storage.set_trial_user_attr(self._trial_id(record.number), records.INTERRUPTED, True)
                    self.fail(record.number, "the search ended before this trial did")
                    shutil.rmtree(self._artefacts(record.number), ignore_errors=True)
            for unfinished in (self.directory / ARTIFACTS).glob(".*"):
                shutil.rmtree(unfinished)

    def records(self) -> list[TrialRecord]:
        """Return all trials, by number."""
        return [self._record(trial) for trial in self.study.get_trials(deepcopy=False)]

    def record(self, number: int) -> TrialRecord:
        """Return trial ``number``."""
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise RunError(
                f"the run has trials 0 to {len(trials) - 1}, but not {number}" if trials else "the run has no trial yet"
            )
        return self._record(trials[number])

    def front(self, budget: Budget | None = None) -> list[TrialRecord]:
        """Return the complete trials, within ``budget`` if given, that no other of them beats in all that is minimised.

        The most accurate comes first.
        """
        complete = [record for record in self.records() if record.state == "complete"]
        within = [record for record in complete if budget is None or budget.keeps(record.objectives)]
        F = np.array([[record.objectives[name] for name in self.minimised] for record in within]).reshape(-1, len(self.minimised))
        return sorted(itertools.compress(within, non_dominated(F)), key=_preference)

    def best(self, budget: Budget) -> TrialRecord | None:
        """Return the most accurate trial on validation within ``budget``; of equals the one with the least flash, then RAM."""
        return next(iter(self.front(budget)), None)

    def graph(self, number: int) -> IntegerGraph:
        """Return the integer graph of the complete trial ``number``."""
        return load(self._artefact(number, GRAPH))

    def weights(self, number: int) -> Weights:
        """Return the trained weights of the complete trial ``number``."""
        return load_file(self._artefact(number, WEIGHTS))

    def log(self, number: int) -> dict[str, Any]:
        """Return the log of the complete trial ``number``."""
        log: dict[str, Any] = json.loads(self._artefact(number, LOG).read_text(encoding="utf-8"))
        return log

    @property
    def minimised(self) -> tuple[str, ...]:
        """What the search minimises, by the names of UNITS, in the order of the study's values."""
        return tuple(self.study.metric_names or ())

    @property
    def seconds_used(self) -> float:
        """Search time that all sessions took together."""
        return float(self.study.user_attrs.get(SECONDS_USED, 0.0))

    @seconds_used.setter
    def seconds_used(self, seconds: float) -> None:
        with _writing(self.directory):
            self.study.set_user_attr(SECONDS_USED, seconds)

    @property
    def limits(self) -> SpaceLimits | None:
        """The limits of Ω that the run began with: a later version that would choose others still goes on with these."""
        stored = self.study.user_attrs.get(LIMITS)
        return None if stored is None else SpaceLimits.from_json(stored)

    @limits.setter
    def limits(self, limits: SpaceLimits) -> None:
        with _writing(self.directory):
            self.study.set_user_attr(LIMITS, limits.to_json())

    @property
    def teacher(self) -> Teacher | None:
        """The teacher of the run; None before it was trained."""
        path = self.directory / ARTIFACTS / TEACHER / LOGITS
        if not path.is_file():
            return None
        try:
            arrays = load_file(path)
            return Teacher(float(arrays["accuracy"]), arrays["logits"], bool(arrays.get("mirrored", False)))
        except (SafetensorError, KeyError) as error:
            raise RunError(f"{path} must hold a teacher's logits, but cannot be read: {error}; remove {path.parent}") from error

    @teacher.setter
    def teacher(self, teacher: Teacher) -> None:
        with _writing(self.directory):
            self._write_artefacts(self.directory / ARTIFACTS / TEACHER, functools.partial(_write_teacher, teacher))

    def _record(self, trial: optuna.trial.FrozenTrial) -> TrialRecord:
        """Read ``trial``, once if it is finished: a search asks for all records again and again."""
        if trial.number not in self._finished:
            record = records.record(trial)
            if record.state == "running":
                return record
            self._finished[trial.number] = record
        return self._finished[trial.number]

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _artefacts(self, number: int) -> Path:
        return self.directory / ARTIFACTS / f"{number:06d}"

    def _artefact(self, number: int, name: str) -> Path:
        state = self.record(number).state
        if state != "complete":
            raise RunError(f"only a complete trial has a network, but trial {number} is {state}")
        path = self._artefacts(number) / name
        if not path.is_file():
            raise RunError(f"trial {number} must have its {name}, but {path} is missing; copy the whole run directory")
        return path

    def _write_artefacts(self, directory: Path, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a directory under a name that nobody reads, then rename it."""
        temporary = directory.with_name(f".{directory.name}")
        temporary.mkdir()
        write(temporary)
        for path in temporary.iterdir():
            _sync(path)
        temporary.rename(directory)


def _write_evaluation(evaluation: Evaluation, directory: Path) -> None:
    save(evaluation.graph, directory / GRAPH)
    (directory / WEIGHTS).write_bytes(serialise(evaluation.weights))
    (directory / LOG).write_text(json.dumps(evaluation.log, allow_nan=False), encoding="utf-8")


def _write_teacher(teacher: Teacher, directory: Path) -> None:
    arrays = {"accuracy": np.array(teacher.accuracy), "logits": teacher.logits, "mirrored": np.array(teacher.mirrored)}
    (directory / LOGITS).write_bytes(serialise(arrays))


def _preference(record: TrialRecord) -> tuple[float, float, float]:
    return record.objectives["error"], record.objectives["flash_bytes"], record.objectives["ram_bytes"]


def _storage(database: Path, connect: Callable[[Path], sqlite3.Connection]) -> RDBStorage:
    return RDBStorage(f"sqlite:///{database}", engine_kwargs={"creator": functools.partial(connect, database)})


def _connect(database: Path, mode: str) -> sqlite3.Connection:
    uri = f"{database.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_SECONDS, check_same_thread=False)


def _readable(database: Path) -> sqlite3.Connection:
    return _connect(database, "ro")


def _writable(database: Path) -> sqlite3.Connection:
    connection = _connect(database, "rwc")
    # A trial is dozens of small transactions. With a write-ahead log they need not wait for the disk one by one; a crash of the
    # process loses none of them, a power cut at most the last.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _end_log(database: Path) -> None:
    """Turn the write-ahead log off: with it, even a reader needs files beside the database."""
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)
    # Somebody is reading, or the disk is full: nothing is lost, the next writer to close tries again.
    with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = DELETE")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turn what goes wrong when a disk is full or read-only into a RunError."""
    try:
        yield
    except (OSError, GraphFileError, SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise RunError(
            f"a search writes to its run directory, but {directory} cannot be written: {_reason(error)}; "
            "nothing recorded is lost: make room, then resume"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the message at the bottom of the chain: the operating system's, or SQLite's, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing the study, and metric names as experimental, to users who never heard of either."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
