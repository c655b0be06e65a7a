"""The search loop: one process asks and tells the study, workers evaluate.

It ends when the budget is used, or at Ctrl-C; either way every trial that finished is in the ledger, and what was still running
is recorded as interrupted. Decisions depend on the clock only where the budget is a time.
"""

import contextlib
import functools
import itertools
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from optuna.samplers import BaseSampler

from sparse_mcu.data.dataset import Dataset
from sparse_mcu.errors import BudgetError, SparseMcuError, UserError
from sparse_mcu.nn.teacher import most_steps
from sparse_mcu.search.candidate import Candidate, Evaluation, Parent, Teacher
from sparse_mcu.search.evaluation import evaluate
from sparse_mcu.search.feasibility import Feasibility, Shortfall, nothing_fits
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.options import OURS, Progress, SearchOptions
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.search.rungs import Rungs
from sparse_mcu.search.sampler import REFUSALS, SparseSampler
from sparse_mcu.search.samplers import other_sampler
from sparse_mcu.search.stages import EXPLORE, POLISH, with_stages
from sparse_mcu.search.teaching import Lesson, teach
from sparse_mcu.search.threads import threads
from sparse_mcu.search.volume import Volume
from sparse_mcu.search.workers import Failure, Finished, TrainingData, Workers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import fits

Ending = Literal["finished", "interrupted"]
Observer = Callable[[Progress], None]
Evaluate = Callable[[Candidate, TrainingData, str, float | None], Evaluation]
Teach = Callable[[Lesson, TrainingData, str, float | None], Teacher]
Pool = Workers[Evaluation | Teacher]

TICK_SECONDS = 0.5  # between two reports while nothing happens
STOPS = (signal.SIGINT, signal.SIGTERM)
# After its time a search waits so long, or for this share of it, for candidates that are being measured; their training ends
# with the time.
GRACE_SECONDS, GRACE_SHARE = 4.0, 0.01
# For a larger network whose soft labels the candidates learn: of the time of a search, or for each of its trials.
TEACHER_TIME_SHARE = 0.1
TEACHER_STEPS_PER_TRIAL = 50
TEACHER, TEACHING = -1, "teacher"  # the number of its task among those of trials, and its stage in reports
# When the first candidates fail, one after the other, this often, all would.
HOPELESS_FAILURES = 8


def search(
    dataset: Dataset,
    options: SearchOptions,
    ledger: Ledger,
    observer: Observer,
    evaluate: Evaluate = evaluate,
    teach: Teach = teach,
) -> Ending:
    """Search until the budget is used or the user interrupts; return which. ``ledger`` may hold trials of earlier sessions.

    Raises BudgetError where no network can fit, RunError where the ledger cannot be written or workers cannot start, UserError
    where the device is not there, and SparseMcuError where no candidate can be evaluated.
    """
    start = time.monotonic()
    with _stops_remembered() as stops, threads(1), Pool(dataset, _device(options.device), options.workers) as workers:
        session = _Session(dataset, options, ledger, observer, workers, start, stops)
        try:
            session.run(evaluate, teach)
        finally:
            session.end()
    return "interrupted" if stops else "finished"


@contextlib.contextmanager
def _stops_remembered() -> Iterator[list[int]]:
    """Yield a list that Ctrl-C adds to, and SIGTERM where the caller hears it, instead of interrupting what is going on.

    In the middle of a transaction, of a read too, KeyboardInterrupt would leave the database locked for what is still to be
    recorded; raised in a callback of the garbage collector, it would be printed and forgotten.
    """
    heard: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # which alone is interrupted
    before = {number: signal.getsignal(number) for number in STOPS} if main else {}
    caught = {number: handler for number, handler in before.items() if callable(handler)}
    for number in caught:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield heard
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


class _Session:
    """The trials from one start of the search to its end.

    ``start``: when it began, by time.monotonic; ``stops``: signals that have asked since for its end.
    """

    def __init__(
        self,
        dataset: Dataset,
        options: SearchOptions,
        ledger: Ledger,
        observer: Observer,
        workers: Pool,
        start: float,
        stops: Sequence[int],
    ) -> None:
        self._options, self._ledger, self._observer, self._workers = options, ledger, observer, workers
        self._stops = stops
        self._limits = self._fixed_limits(dataset)
        self._shortfall = Feasibility(options.board, options.budget).shortfall
        self._start = start - ledger.seconds_used  # earlier sessions count as if they had just been
        self._deadline = None if options.seconds is None else self._start + options.seconds
        self._volume = Volume(options.goal, self._limits)
        self._complete: list[TrialRecord] = []
        self._durations: dict[str | None, list[float]] = {}  # of the trials of each stage
        earlier = ledger.records()
        for record in earlier:
            if record.state == "complete":
                self._take_in(record)
        self._failed = sum(record.state == "failed" for record in earlier)
        self._refused = sum(record.refused for record in earlier)
        first = EXPLORE.name if options.sampler == OURS else options.sampler
        self._stage: str = next((record.stage for record in reversed(earlier) if record.stage is not None), first)
        self._classes, self._images, self._teacher = dataset.classes, len(dataset.train), ledger.teacher
        ledger.study.sampler = self._sampler(len(earlier))

    def _sampler(self, begun: int) -> BaseSampler:
        """Return the optimiser of a study that has ``begun`` trials."""
        options = self._options
        if options.sampler != OURS:
            return other_sampler(options.sampler, options.seed, begun)
        return SparseSampler(self._limits, options.goal, self._images, options.seed, self._used, self._shortfall, options.seconds)

    def _fixed_limits(self, dataset: Dataset) -> SpaceLimits:
        """Return the limits that the run began with, or choose them now."""
        limits = self._ledger.limits
        if limits is None:
            budget = self._options.budget
            chosen = SpaceLimits.for_input(dataset.input_shape, dataset.classes, budget.ram_bytes, budget.flash_bytes)
            self._ledger.limits = limits = with_stages(chosen, len(dataset.train))
        return limits

    def run(self, evaluate: Evaluate, teach: Teach) -> None:
        """Ask, wait and tell until the budget is used."""
        if self._may_start():
            first = self._ask()  # where no network can fit, that is told now and not when a teacher is trained
            self._learn(teach)
            if self._workers.idle:  # a teacher that is still trained has used up all the time
                self._submit(first, evaluate)
        self._fill(evaluate)
        import sparse_mcu.search.surrogate  # noqa: F401  # takes seconds: now, while the first candidates train

        self._report(self._stage)
        while self._workers.running and self._goes_on():
            for finished in self._workers.wait(TICK_SECONDS):
                self._tell(finished)
            self._fill(evaluate)
            self._report(self._stage)

    def _learn(self, teach: Teach) -> None:
        """Have a teacher trained, unless an earlier session has; where it fails for want of memory, say, go on without."""
        if self._teacher is not None:
            return
        options = self._options
        steps = None if options.trials is None else min(most_steps(self._images), TEACHER_STEPS_PER_TRIAL * options.trials)
        seconds = None if options.seconds is None else TEACHER_TIME_SHARE * options.seconds
        lesson = Lesson(self._classes, options.workers, steps, seconds)
        self._workers.submit(TEACHER, functools.partial(teach, lesson), self._deadline)
        while self._workers.running and self._goes_on():
            self._report(TEACHING)
            for finished in self._workers.wait(TICK_SECONDS):
                if isinstance(finished.outcome, Teacher):
                    self._ledger.teacher = self._teacher = finished.outcome
                elif isinstance(finished.outcome, Failure) and finished.outcome.traceback is not None:
                    raise SparseMcuError(f"a teacher must be trained, but that fails: {finished.outcome.traceback}")

    def end(self) -> None:
        """Record what is still running as interrupted."""
        self._ledger.interrupt_running()
        self._ledger.seconds_used = time.monotonic() - self._start

    def _fill(self, evaluate: Evaluate) -> None:
        """Give every idle worker a candidate, while the budget allows."""
        while self._workers.idle and self._may_start():
            self._submit(self._ask(), evaluate)

    def _submit(self, record: TrialRecord, evaluate: Evaluate) -> None:
        self._stage = record.stage or self._options.sampler
        self._workers.submit(record.number, functools.partial(evaluate, self._candidate(record)), self._deadline)

    def _ask(self) -> TrialRecord:
        """Return a new trial whose candidate may fit. Ours proposes no other; other samplers know nothing of the board."""
        shortfalls: list[Shortfall] = []
        for _ in range(REFUSALS):
            record = self._ledger.ask(self._limits)
            assert record.architecture is not None
            self._refused += record.refused
            if not fits(self._limits, record.architecture):
                self._refuse(record, "has more weights, or larger feature maps, than the budget is worth training")
            elif (shortfall := self._shortfall(record.architecture)) is not None:
                shortfalls.append(shortfall)
                self._refuse(record, str(shortfall))
            else:
                return record
        raise BudgetError(nothing_fits(self._options.budget, shortfalls))

    def _refuse(self, record: TrialRecord, reason: str) -> None:
        self._ledger.refuse(record.number, reason)
        self._refused += 1

    def _candidate(self, record: TrialRecord) -> Candidate:
        assert record.architecture is not None
        seed = int(np.random.SeedSequence((self._options.seed, record.number)).generate_state(1)[0])
        parent = None if record.parent is None else self._parent(record.parent)
        polish = record.stage == POLISH.name
        alike = (complete.rungs for complete in self._complete if complete.stage == record.stage)
        rungs = None if polish else Rungs.of(self._options.goal.minimised, alike)
        return Candidate(
            record.architecture,
            self._options.board,
            seed,
            parent,
            rungs,
            ram_bytes=self._options.budget.ram_bytes,
            polish=polish,
            teacher=self._teacher,
        )

    def _parent(self, number: int) -> Parent:
        architecture = self._ledger.record(number).architecture
        assert architecture is not None
        return Parent(architecture, self._ledger.weights(number))

    def _may_start(self) -> bool:
        if self._stops:
            return False
        if self._options.trials is not None:
            return self._begun() < self._options.trials
        # A candidate that the deadline would cut short is not worth starting; polishing is as long as there is time for.
        known = self._durations.get(self._stage) or list(itertools.chain(*self._durations.values()))
        needed = min if self._stage == POLISH.name else statistics.median
        return self._seconds_left() > (needed(known) if known else 0.0)

    def _tell(self, finished: Finished[Evaluation | Teacher]) -> None:
        assert not isinstance(finished.outcome, Teacher)
        if isinstance(finished.outcome, Evaluation):
            excesses = self._options.budget.excesses(finished.outcome.objectives)
            self._ledger.complete(finished.number, finished.outcome, finished.seconds, excesses)
            self._take_in(self._ledger.record(finished.number))
        else:
            self._ledger.fail(finished.number, finished.outcome.traceback or finished.outcome.message, finished.seconds)
            self._failed += 1
            if not self._complete and self._failed >= HOPELESS_FAILURES:
                raise SparseMcuError(f"the first {self._failed} candidates all failed, the last with: {finished.outcome.message}")
        self._ledger.seconds_used = time.monotonic() - self._start

    def _take_in(self, record: TrialRecord) -> None:
        """Count a complete trial."""
        self._complete.append(record)
        assert record.seconds is not None
        self._durations.setdefault(record.stage, []).append(record.seconds)
        self._volume.add(record.objectives)

    def _best_accuracy(self) -> float | None:
        """Return the accuracy of the best network within the budget."""
        keeps = self._options.budget.keeps
        return max((record.accuracy for record in self._complete if keeps(record.objectives)), default=None)

    def _report(self, stage: str) -> None:
        used = self._used()
        self._observer(
            Progress(
                stage=stage,
                share=min(used, 1.0),
                done=len(self._complete),
                failed=self._failed,
                refused=self._refused,
                stopped=sum(record.stopped for record in self._complete),
                seconds_left=None if self._deadline is None else max(0.0, self._seconds_left()),
                hypervolume=self._volume.share,
                best_accuracy=self._best_accuracy(),
                taught=self._teacher is not None,
            )
        )

    def _begun(self) -> int:
        """Trials that count towards a budget in trials: all but interrupted ones."""
        return len(self._complete) + self._failed + len(self._workers.running)

    def _used(self) -> float:
        """Share of the budget that is used."""
        if self._options.trials is not None:
            return self._begun() / self._options.trials
        assert self._options.seconds is not None
        return (time.monotonic() - self._start) / self._options.seconds

    def _seconds_left(self) -> float:
        assert self._deadline is not None
        return self._deadline - time.monotonic()

    def _goes_on(self) -> bool:
        return not self._stops and not self._overdue()

    def _overdue(self) -> bool:
        seconds = self._options.seconds
        return seconds is not None and self._seconds_left() < -max(GRACE_SECONDS, GRACE_SHARE * seconds)


def _device(name: str) -> str:
    """Return the device that ``name`` stands for here. Raises UserError where it is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device cuda needs a GPU that PyTorch can use, but there is none here; use cpu or auto")
    return ("cuda" if available else "cpu") if name == "auto" else name
