"""The search loop: one process asks and tells the study, workers evaluate.

It ends when the budget is used, or at Ctrl-C; either way every trial that finished is in the ledger, and what was still running
is recorded as interrupted. Decisions depend on the clock only where the budget is a time.
"""

import statistics
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from sparse_mcu.data.dataset import Dataset
from sparse_mcu.errors import SparseMcuError, UserError
from sparse_mcu.search.candidate import Candidate, Evaluation, Parent
from sparse_mcu.search.evaluation import evaluate
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.objectives import MINIMISED
from sparse_mcu.search.options import Progress, SearchOptions
from sparse_mcu.search.pareto import hypervolume
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.search.sampler import SparseSampler
from sparse_mcu.search.stages import stage_at, with_stages
from sparse_mcu.search.threads import single_thread
from sparse_mcu.search.workers import Evaluate, Finished, Workers
from sparse_mcu.space.limits import SpaceLimits

Ending = Literal["finished", "interrupted"]
Observer = Callable[[Progress], None]

TICK_SECONDS = 0.5  # between two reports while nothing happens
# After its time a search waits this long for candidates that are being measured; their training ends with the time.
GRACE_SECONDS = 4.0
# When the first candidates fail, one after the other, this often, all would.
HOPELESS_FAILURES = 8


def search(
    dataset: Dataset,
    options: SearchOptions,
    ledger: Ledger,
    observer: Observer,
    evaluate: Evaluate = evaluate,
) -> Ending:
    """Search until the budget is used or the user interrupts; return which. ``ledger`` may hold trials of earlier sessions.

    Raises BudgetError where no network can fit, RunError where the ledger cannot be written or workers cannot start, UserError
    where the device is not there, and SparseMcuError where no candidate can be evaluated.
    """
    start = time.monotonic()
    try:
        with single_thread(), Workers(evaluate, dataset, _device(options.device), options.workers) as workers:
            session = _Session(dataset, options, ledger, observer, workers, start)
            try:
                session.run()
            finally:
                session.end()
    except KeyboardInterrupt:
        return "interrupted"
    return "finished"


class _Session:
    """The trials from one start of the search to its end. ``start``: when it began, by time.monotonic."""

    def __init__(
        self, dataset: Dataset, options: SearchOptions, ledger: Ledger, observer: Observer, workers: Workers, start: float
    ) -> None:
        self._options, self._ledger, self._observer, self._workers = options, ledger, observer, workers
        budget = options.budget
        self._limits = self._fixed_limits(dataset)
        feasibility = Feasibility(options.board, budget)
        ledger.study.sampler = SparseSampler(
            self._limits, budget, len(dataset.train), options.seed, self._used, feasibility.shortfall
        )
        self._start = start - ledger.seconds_used  # earlier sessions count as if they had just been
        self._deadline = None if options.seconds is None else self._start + options.seconds
        earlier = ledger.records()
        self._durations = [record.seconds for record in earlier if record.state == "complete" and record.seconds is not None]
        self._failed = sum(record.state == "failed" for record in earlier)
        self._reference = np.array([1.0 - 1.0 / dataset.classes, budget.flash_bytes, budget.ram_bytes])
        self._hypervolume = 0.0
        self._best_accuracy: float | None = None

    def _fixed_limits(self, dataset: Dataset) -> SpaceLimits:
        """Return the limits that the run began with, or choose them now."""
        limits = self._ledger.limits
        if limits is None:
            budget = self._options.budget
            chosen = SpaceLimits.for_input(dataset.input_shape, dataset.classes, budget.ram_bytes, budget.flash_bytes)
            self._ledger.limits = limits = with_stages(chosen, len(dataset.train))
        return limits

    def run(self) -> None:
        """Ask, wait and tell until the budget is used."""
        self._survey()
        self._report()
        self._fill()
        import sparse_mcu.search.surrogate  # noqa: F401  # takes seconds: now, while the first candidates train

        while self._workers.running and not self._overdue():
            for finished in self._workers.wait(TICK_SECONDS):
                self._tell(finished)
            self._fill()
            self._report()

    def end(self) -> None:
        """Record what is still running as interrupted."""
        self._ledger.interrupt_running()
        self._ledger.seconds_used = time.monotonic() - self._start

    def _fill(self) -> None:
        """Give every idle worker a candidate, while the budget allows."""
        while self._workers.idle and self._may_start():
            record = self._ledger.ask(self._limits)
            self._workers.submit(record.number, self._candidate(record), self._deadline)

    def _candidate(self, record: TrialRecord) -> Candidate:
        assert record.architecture is not None
        seed = int(np.random.SeedSequence((self._options.seed, record.number)).generate_state(1)[0])
        if record.parent is None:
            return Candidate(record.architecture, self._options.board, seed)
        architecture = self._ledger.record(record.parent).architecture
        assert architecture is not None
        parent = Parent(architecture, self._ledger.weights(record.parent))
        return Candidate(record.architecture, self._options.board, seed, parent)

    def _may_start(self) -> bool:
        if self._options.trials is not None:
            return self._begun() < self._options.trials
        # A candidate that the deadline would cut short is not worth starting.
        typical = statistics.median(self._durations) if self._durations else 0.0
        return self._seconds_left() > typical

    def _tell(self, finished: Finished) -> None:
        if isinstance(finished.outcome, Evaluation):
            self._ledger.complete(finished.number, finished.outcome, finished.seconds)
            self._durations.append(finished.seconds)
            self._survey()
        else:
            self._ledger.fail(finished.number, finished.outcome.traceback or finished.outcome.message, finished.seconds)
            self._failed += 1
            if not self._durations and self._failed >= HOPELESS_FAILURES:
                raise SparseMcuError(f"the first {self._failed} candidates all failed, the last with: {finished.outcome.message}")
        self._ledger.seconds_used = time.monotonic() - self._start

    def _survey(self) -> None:
        """Look at the front as it is now."""
        front = self._ledger.front(self._options.budget)
        objectives = np.array([[record.objectives[name] for name in MINIMISED] for record in front]).reshape(-1, len(MINIMISED))
        self._hypervolume = hypervolume(objectives / self._reference, np.ones(len(MINIMISED)))
        self._best_accuracy = front[0].accuracy if front else None

    def _report(self) -> None:
        used = self._used()
        self._observer(
            Progress(
                stage=stage_at(used).name,
                share=min(used, 1.0),
                done=len(self._durations),
                failed=self._failed,
                seconds_left=None if self._deadline is None else max(0.0, self._seconds_left()),
                hypervolume=self._hypervolume,
                best_accuracy=self._best_accuracy,
            )
        )

    def _begun(self) -> int:
        """Trials that count towards a budget in trials: all but interrupted ones."""
        return len(self._durations) + self._failed + len(self._workers.running)

    def _used(self) -> float:
        """Share of the budget that is used."""
        if self._options.trials is not None:
            return self._begun() / self._options.trials
        assert self._options.seconds is not None
        return (time.monotonic() - self._start) / self._options.seconds

    def _seconds_left(self) -> float:
        assert self._deadline is not None
        return self._deadline - time.monotonic()

    def _overdue(self) -> bool:
        return self._deadline is not None and self._seconds_left() < -GRACE_SECONDS


def _device(name: str) -> str:
    """Return the device that ``name`` stands for here. Raises UserError where it is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device cuda needs a GPU that PyTorch can use, but there is none here; use cpu or auto")
    return ("cuda" if available else "cpu") if name == "auto" else name
