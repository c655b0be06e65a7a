"""The search's optimiser as an Optuna sampler: plain networks, quasi-random points, then pools that the surrogate ranks.

A proposal for trial n follows from (seed, n) and the trials that finished before: any number of workers can ask at once, and
one worker repeats itself. Networks that cannot fit, whatever their training brings, are never proposed.
"""

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from torch.quasirandom import SobolEngine

from sparse_mcu.errors import BudgetError
from sparse_mcu.search import records
from sparse_mcu.search.feasibility import Shortfall, nothing_fits
from sparse_mcu.search.guide import Guide, Observations, Point, point, region_of_interest
from sparse_mcu.search.objectives import PRUNABLE, Goal
from sparse_mcu.search.omega import distribution
from sparse_mcu.search.pareto import Float64Array, non_dominated
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.search.scalarise import Region, draw_weights, preference
from sparse_mcu.search.stages import (
    EXPLORE,
    POLISH,
    POLISHING_BATCH,
    REFINE,
    ROUND_LENGTHS,
    Stage,
    images_seen,
    polished,
    polishing_round,
    polishing_steps,
    stage_at,
    steps_of,
    trained_for,
)
from sparse_mcu.search.volume import Volume
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import Dimension, Value, dimensions
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS, SMALL_MORPHS, morph
from sparse_mcu.space.plain import plain
from sparse_mcu.space.suggest import assignment, fits, sample, suggest

# Plain networks that a search begins with, from the smallest to the largest that fit.
PLAIN_TRIALS = 10
# Quasi-random points before the surrogate has a say: this share of the budget, and never fewer finished trials than this.
QUASI_SHARE = 0.08
QUASI_TRIALS = 8
POOL = 200
MORPHED_SHARE = 0.5  # of the pool, while exploring
PARENTS = 8  # of a pool: the trials that the drawn weights prefer; more than one, for each has been lucky or not
REACH = 2.0  # times a limit that pruning can bring a network back to, up to which it may be a parent
MAX_MORPHS = 3  # in a row, from a parent to its child
# Of the children, while exploring and morphing: that take their θ from anywhere in Ω. Few morphs change a setting, and then by a
# step: all descendants of a network that did well early on would train and prune as it happened to.
FRESH_SETTINGS_SHARE = 0.3
REFUSALS = 200  # points of all of Ω refused in a row before the budget is taken to hold no network


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to try as a candidate of ``stage``, and the trial whose weights it begins with."""

    stage: Stage
    architecture: Architecture
    parent: int | None = None
    refused: int = 0  # candidates that came before it and cannot fit


class SparseSampler(BaseSampler):
    """Proposes the trials of a study over ``goal.minimised`` whose parameters walk Ω (``omega.choose_by``).

    ``images``: number of them in the training split. ``used`` tells the share of the search's budget that is used up,
    ``shortfall`` why an architecture cannot fit, or None. ``seconds`` is the budget where it is a time.
    """

    def __init__(
        self,
        limits: SpaceLimits,
        goal: Goal,
        images: int,
        seed: int,
        used: Callable[[], float],
        shortfall: Callable[[Architecture], Shortfall | None],
        seconds: float | None = None,
    ) -> None:
        self._limits = limits
        self._goal = goal
        self._images = images
        self._seed = seed
        self._used = used
        self._shortfall = shortfall
        self._seconds = seconds
        self._guide = Guide.of(goal)
        self._history = History(limits, goal, images)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all dimensions that the limits leave open; a proposal sets those that its architecture has."""
        return {dimension.name: distribution(dimension) for dimension in dimensions(self._limits)}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Propose an architecture, note in the trial where it comes from, and return its parameters."""
        self._history.read(study)
        used, begun = self._used(), self._history.stage
        stage = stage_at(used, begun, self._history.volumes.get(begun, []))
        proposal = self._propose(stage, used, trial.number)
        notes = {records.STAGE: proposal.stage.name, records.PARENT: proposal.parent, records.REFUSED: proposal.refused}
        for name, value in notes.items():
            # As Optuna's own samplers do: a sampler is given a frozen trial, and has no other way to say more than parameters.
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        return assignment(self._limits, proposal.architecture)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Raise ValueError: a proposal sets every parameter that the walk of its architecture asks for."""
        raise ValueError(f"a trial's parameters must be the dimensions of the sampler's limits, but {param_name!r} is none")

    def interest(self, outcomes: Float64Array, rng: np.random.Generator) -> tuple[Region, Float64Array]:
        """Return the region in which a proposal is to add something to ``outcomes`` (n, c), and its weights (j, k).

        It follows from what was found, and half of the proposals are for the network that errs least. Whoever knows which region
        counts, and that no part of it counts more, has a method of their own here.
        """
        minimised = self._goal.minimised
        return region_of_interest(outcomes, self._goal), draw_weights(len(minimised), minimised.index("error"), rng)

    def _propose(self, stage: Stage, used: float, number: int) -> Proposal:
        rng = np.random.default_rng((self._seed, number))
        refused = 0
        if stage is EXPLORE and number < len(self._plain):
            return self._plain[number]
        if used >= QUASI_SHARE and len(self._history.complete) >= QUASI_TRIALS:
            for proposal in self._ranked(stage, used, rng):
                if proposal.stage is not POLISH and proposal.architecture in self._history.tried:
                    continue
                if self._shortfall(proposal.architecture) is None:
                    return dataclasses.replace(proposal, refused=refused)
                refused += 1
        return self._quasi_random(REFINE if stage is POLISH else stage, number, refused)

    @functools.cached_property
    def _plain(self) -> list[Proposal]:
        """One plain network of each of several classes of size, in random order, each to be pruned in a way of its own."""
        rng = np.random.default_rng(self._seed)
        networks = plain(self._limits)
        proposals: list[Proposal] = []
        refused = 0
        sizes = np.array_split(np.arange(len(networks)), PLAIN_TRIALS)
        for size in rng.permutation(PLAIN_TRIALS):
            for network in (networks[index] for index in rng.permutation(sizes[size])):
                if self._shortfall(network) is None:
                    training = dataclasses.replace(network.training, pruning=sample(self._limits, rng).training.pruning)
                    drawn = dataclasses.replace(network, training=training)
                    proposals.append(Proposal(EXPLORE, trained_for(drawn, EXPLORE.steps, self._images)))
                    break
                refused += 1
        return [dataclasses.replace(proposal, refused=0 if index else refused) for index, proposal in enumerate(proposals)]

    def _quasi_random(self, stage: Stage, number: int, refused: int) -> Proposal:
        """Return point ``number`` of a scrambled Sobol sequence over Ω; where it cannot fit, that of the next scrambling."""
        shortfalls: list[Shortfall] = []
        for scrambling in range(REFUSALS):
            quantiles = self._sobol(scrambling, number)
            architecture = suggest(self._limits, functools.partial(_value_at, quantiles))
            if not fits(self._limits, architecture):
                continue
            architecture = trained_for(architecture, stage.steps, self._images)
            shortfall = self._shortfall(architecture)
            if shortfall is None:
                return Proposal(stage, architecture, refused=refused + len(shortfalls))
            shortfalls.append(shortfall)
        raise BudgetError(nothing_fits(self._goal.budget, shortfalls))

    def _sobol(self, scrambling: int, number: int) -> dict[str, float]:
        """Return a quantile in [0, 1) for every dimension: point ``number`` of the sequence under one of its scramblings."""
        names = [dimension.name for dimension in dimensions(self._limits)]
        seed = int(np.random.SeedSequence((self._seed, scrambling)).generate_state(1)[0])
        engine = SobolEngine(len(names), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        engine.fast_forward(number)  # type: ignore[no-untyped-call]
        return dict(zip(names, engine.draw(dtype=torch.float64)[0].tolist(), strict=True))

    def _ranked(self, stage: Stage, used: float, rng: np.random.Generator) -> Iterator[Proposal]:
        """Yield a pool of candidates, the most promising first."""
        complete = self._history.complete
        outcomes = _outcomes(complete, self._goal.columns)
        region, weights = self.interest(outcomes, rng)
        worthy = [trial for trial, outcome in zip(complete, outcomes, strict=True) if (outcome <= region.upper).all()]
        if stage is POLISH and (due := self._to_polish(worthy, used)):
            # What these are has been measured, and how much each has still to learn nobody knows: no surrogate has a say.
            order = preference(_outcomes(due, self._goal.columns), region, weights[0])
            return (self._polishing(due[index], used) for index in order)
        stage = REFINE if stage is POLISH else stage  # all that is worth it has been polished
        parents = [complete[index] for index in self._prolific(outcomes, region, weights[0])[:PARENTS]]
        pool = list(self._pool(stage, parents, rng))
        observed = Observations([self._history.points[trial.number] for trial in complete], outcomes)
        points = [self._history.point(proposal.architecture, proposal.parent) for proposal in pool]
        return (pool[index] for index in self._guide.rank(observed, points, region, weights, rng))

    def _pool(self, stage: Stage, parents: list[TrialRecord], rng: np.random.Generator) -> Iterator[Proposal]:
        for index in range(POOL):
            if stage is EXPLORE and index >= MORPHED_SHARE * POOL:
                yield Proposal(stage, trained_for(sample(self._limits, rng), stage.steps, self._images))
                continue
            parent = parents[rng.integers(len(parents))]
            assert parent.architecture is not None
            child = parent.architecture
            for _ in range(rng.integers(1, MAX_MORPHS + 1)):
                _, child = morph(child, self._limits, rng, SMALL_MORPHS if stage is REFINE else MORPHS)
            if stage is not REFINE and rng.random() < FRESH_SETTINGS_SHARE:
                child = dataclasses.replace(child, training=sample(self._limits, rng).training)
            yield Proposal(stage, trained_for(child, stage.steps, self._images), None if stage is EXPLORE else parent.number)

    def _prolific(self, outcomes: Float64Array, region: Region, weights: Float64Array) -> npt.NDArray[np.intp]:
        """Return the trials in the order in which their children are of interest.

        What learns well is often too large when it has just been trained, and within the limits when it was pruned once more.
        """
        prunable = region.limited & np.isin(self._goal.columns, PRUNABLE)
        order = preference(outcomes, dataclasses.replace(region, limited=region.limited & ~prunable), weights)
        beyond_reach = (outcomes > REACH * region.upper)[order][:, prunable].any(axis=1)
        return order[np.argsort(beyond_reach, kind="stable")]

    def _to_polish(self, worthy: Sequence[TrialRecord], used: float) -> list[TrialRecord]:
        """Return the networks whose turn it is: none polished more often than there were rounds before this one.

        Those of the front that were polished most often come first; of those that never were, not the front alone: which network
        errs least when it has learnt all that it can is not which does now.
        """
        history = self._history
        outcomes = _outcomes(worthy, self._goal.minimised)
        front = {trial.number for trial in itertools.compress(worthy, non_dominated(outcomes).tolist())}
        now = polishing_round(used)
        for rounds in (*range(now, -1, -1), *range(now + 1, len(ROUND_LENGTHS))):
            alike = [trial for trial in worthy if history.rounds[trial.number] == rounds and trial.number not in history.polished]
            due = [trial for trial in alike if rounds == 0 or trial.number in front]
            if due:
                return due
        return []

    def _polishing(self, trial: TrialRecord, used: float) -> Proposal:
        """Return how to polish the network of ``trial``."""
        assert trial.architecture is not None and trial.seconds is not None
        steps = float(POLISH.steps)
        if self._seconds is not None:
            step_seconds = POLISHING_BATCH * trial.seconds / images_seen(trial.architecture, self._images)
            steps = polishing_steps(used, self._seconds, step_seconds)
        return Proposal(POLISH, polished(trial.architecture, steps, self._images), trial.number)


def _outcomes(trials: Sequence[TrialRecord], names: Sequence[str]) -> Float64Array:  # (n, c)
    """Return the outcomes called ``names`` of n complete trials."""
    return np.array([[trial.objectives[name] for name in names] for trial in trials]).reshape(-1, len(names))


def _value_at(quantiles: dict[str, float], dimension: Dimension) -> Value:
    return dimension.at(quantiles[dimension.name])


class History:
    """The trials of a study as the sampler needs them: read again and again, so kept and only added to."""

    def __init__(self, limits: SpaceLimits, goal: Goal, images: int) -> None:
        self._limits = limits
        self._images = images
        self._volume = Volume(goal, limits)
        self._read: set[int] = set()
        self.complete: list[TrialRecord] = []  # in the order in which they finished
        self.points: dict[int, Point] = {}  # of the complete trials
        self._steps: dict[int, float] = {}  # behind the weights of a complete trial, its ancestors' included
        self.tried: set[Architecture] = set()
        self.polished: set[int] = set()  # the trials that others have polished, or are about to
        self.rounds: dict[int, int] = {}  # how often the weights of a complete trial have been polished
        self.stage: str | None = None  # of the newest trial that was proposed
        self.volumes: dict[str | None, list[float]] = {}  # of the front, after each complete trial of a stage

    def read(self, study: Study) -> None:
        """Take in the trials that are new."""
        trials = study.get_trials(deepcopy=False)
        new = [trial for trial in trials if trial.number not in self._read]
        self.stage = next((trial.user_attrs[records.STAGE] for trial in trials[::-1] if records.STAGE in trial.user_attrs), None)
        # In the order in which they finished: then what is fitted to the first n stays what it is when more arrive.
        for trial in sorted(new, key=lambda trial: trial.datetime_complete or datetime.datetime.max):
            if records.ARCHITECTURE in trial.user_attrs:
                self._add(records.record(trial))
            if trial.state.is_finished():
                self._read.add(trial.number)

    def _add(self, record: TrialRecord) -> None:
        assert record.architecture is not None
        if record.state == "interrupted":
            return
        self.tried.add(record.architecture)
        polishes = record.parent if record.stage == POLISH.name else None
        if polishes is not None:
            self.polished.add(polishes)
        if record.state != "complete":
            return
        self.points[record.number] = self.point(record.architecture, record.parent)
        self._steps[record.number] = self._steps_behind(record.architecture, record.parent)
        self.rounds[record.number] = 0 if polishes is None else self.rounds[polishes] + 1
        self.complete.append(record)
        self._volume.add(record.objectives)
        self.volumes.setdefault(record.stage, []).append(self._volume.share)

    def point(self, architecture: Architecture, parent: int | None) -> Point:
        """Encode ``architecture`` as if it were trained from scratch for all steps behind its weights, up to Ω's most."""
        total = trained_for(architecture, self._steps_behind(architecture, parent), self._images)
        most = trained_for(architecture, REFINE.steps, self._images)
        return point(self._limits, min(total, most, key=lambda trained: trained.training.epochs))

    def _steps_behind(self, architecture: Architecture, parent: int | None) -> float:
        return steps_of(architecture, self._images) + (0.0 if parent is None else self._steps[parent])
