"""The search's optimiser as an Optuna sampler: quasi-random points, then pools of candidates ranked by the surrogate.

A proposal for trial n follows from (seed, n) and the trials that finished before: any number of workers can ask at once, and
one worker repeats itself. Networks that cannot fit, whatever their training brings, are never proposed.
"""

import datetime
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from torch.quasirandom import SobolEngine

from sparse_mcu.errors import BudgetError
from sparse_mcu.search import records
from sparse_mcu.search.feasibility import Shortfall
from sparse_mcu.search.guide import Guide, Observations, Point, point, region_of_interest
from sparse_mcu.search.objectives import MINIMISED, Budget
from sparse_mcu.search.omega import distribution
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.search.scalarise import draw_weights, preference
from sparse_mcu.search.stages import EXPLORE, REFINE, Stage, stage_at, steps_of, trained_for
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import Dimension, Value, dimensions
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS, SMALL_MORPHS, morph
from sparse_mcu.space.suggest import assignment, fits, sample, suggest

# Quasi-random points before the surrogate has a say: this share of the budget, and never fewer finished trials than this.
QUASI_SHARE = 0.15
QUASI_TRIALS = 8
POOL = 200
MORPHED_SHARE = 0.5  # of the pool, while exploring
PARENTS = 8  # of a pool: the trials that the drawn weights prefer; more than one, for each has been lucky or not
MAX_MORPHS = 3  # in a row, from a parent to its child
REFUSALS = 200  # quasi-random points refused in a row before the budget is taken to hold no network


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to try, and the trial whose weights it begins with."""

    architecture: Architecture
    parent: int | None = None


class SparseSampler(BaseSampler):
    """Proposes the trials of a study over MINIMISED whose parameters walk Ω (``omega.choose_by``).

    ``images``: number of them in the training split. ``used`` tells the share of the search's budget that is used up,
    ``shortfall`` why an architecture cannot fit, or None.
    """

    def __init__(
        self,
        limits: SpaceLimits,
        budget: Budget,
        images: int,
        seed: int,
        used: Callable[[], float],
        shortfall: Callable[[Architecture], Shortfall | None],
    ) -> None:
        self._limits = limits
        self._budget = budget
        self._images = images
        self._seed = seed
        self._used = used
        self._shortfall = shortfall
        self._guide = Guide()
        self._history = History(limits, images)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all dimensions that the limits leave open; a proposal sets those that its architecture has."""
        return {dimension.name: distribution(dimension) for dimension in dimensions(self._limits)}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Propose an architecture, note its stage and parent in the trial, and return its parameters."""
        self._history.read(study)
        used = self._used()
        stage = stage_at(used)
        proposal = self._propose(stage, used, trial.number)
        # As Optuna's own samplers do: a sampler is given a frozen trial, and has no other way to say more than parameters.
        study._storage.set_trial_user_attr(trial._trial_id, records.STAGE, stage.name)
        study._storage.set_trial_user_attr(trial._trial_id, records.PARENT, proposal.parent)
        return assignment(self._limits, proposal.architecture)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Raise ValueError: a proposal sets every parameter that the walk of its architecture asks for."""
        raise ValueError(f"a trial's parameters must be the dimensions of the sampler's limits, but {param_name!r} is none")

    def _propose(self, stage: Stage, used: float, number: int) -> Proposal:
        rng = np.random.default_rng((self._seed, number))
        if used >= QUASI_SHARE and len(self._history.complete) >= QUASI_TRIALS:
            for proposal in self._ranked(stage, rng):
                if proposal.architecture not in self._history.tried and self._shortfall(proposal.architecture) is None:
                    return proposal
        return self._quasi_random(stage, number)

    def _quasi_random(self, stage: Stage, number: int) -> Proposal:
        """Return point ``number`` of a scrambled Sobol sequence over Ω; where it cannot fit, that of the next scrambling."""
        nearest: Shortfall | None = None
        for scrambling in range(REFUSALS):
            quantiles = self._sobol(scrambling, number)
            architecture = suggest(self._limits, functools.partial(_value_at, quantiles))
            if not fits(self._limits, architecture):
                continue
            architecture = trained_for(architecture, stage.steps, self._images)
            shortfall = self._shortfall(architecture)
            if shortfall is None:
                return Proposal(architecture)
            if nearest is None or shortfall.needed / shortfall.limit < nearest.needed / nearest.limit:
                nearest = shortfall
        raise BudgetError(_nothing_fits(self._budget, nearest))

    def _sobol(self, scrambling: int, number: int) -> dict[str, float]:
        """Return a quantile in [0, 1) for every dimension: point ``number`` of the sequence under one of its scramblings."""
        names = [dimension.name for dimension in dimensions(self._limits)]
        seed = int(np.random.SeedSequence((self._seed, scrambling)).generate_state(1)[0])
        engine = SobolEngine(len(names), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        engine.fast_forward(number)  # type: ignore[no-untyped-call]
        return dict(zip(names, engine.draw(dtype=torch.float64)[0].tolist(), strict=True))

    def _ranked(self, stage: Stage, rng: np.random.Generator) -> Iterator[Proposal]:
        """Yield a pool of candidates, the most promising first."""
        complete = self._history.complete
        objectives = np.array([[trial.objectives[name] for name in MINIMISED] for trial in complete])
        region = region_of_interest(objectives, self._budget)
        weights = draw_weights(region.limited, rng)
        parents = [complete[index] for index in preference(objectives, region, weights)[:PARENTS]]
        pool = list(self._pool(stage, parents, rng))
        observed = Observations([self._history.points[trial.number] for trial in complete], objectives)
        points = [self._history.point(proposal.architecture, proposal.parent) for proposal in pool]
        return (pool[index] for index in self._guide.rank(observed, points, region, weights, rng))

    def _pool(self, stage: Stage, parents: list[TrialRecord], rng: np.random.Generator) -> Iterator[Proposal]:
        for index in range(POOL):
            if stage is EXPLORE and index >= MORPHED_SHARE * POOL:
                yield Proposal(trained_for(sample(self._limits, rng), stage.steps, self._images))
                continue
            parent = parents[rng.integers(len(parents))]
            assert parent.architecture is not None
            child = parent.architecture
            for _ in range(rng.integers(1, MAX_MORPHS + 1)):
                _, child = morph(child, self._limits, rng, SMALL_MORPHS if stage is REFINE else MORPHS)
            yield Proposal(trained_for(child, stage.steps, self._images), None if stage is EXPLORE else parent.number)


def _value_at(quantiles: dict[str, float], dimension: Dimension) -> Value:
    return dimension.at(quantiles[dimension.name])


class History:
    """The trials of a study as the sampler needs them: read again and again, so kept and only added to."""

    def __init__(self, limits: SpaceLimits, images: int) -> None:
        self._limits = limits
        self._images = images
        self._read: set[int] = set()
        self.complete: list[TrialRecord] = []  # in the order in which they finished
        self.points: dict[int, Point] = {}  # of the complete trials
        self._steps: dict[int, float] = {}  # behind the weights of a complete trial, its ancestors' included
        self.tried: set[Architecture] = set()

    def read(self, study: Study) -> None:
        """Take in the trials that are new."""
        new = [trial for trial in study.get_trials(deepcopy=False) if trial.number not in self._read]
        # In the order in which they finished: then what is fitted to the first n stays what it is when more arrive.
        for trial in sorted(new, key=lambda trial: trial.datetime_complete or datetime.datetime.max):
            if records.ARCHITECTURE in trial.user_attrs:
                self._add(records.record(trial))
            if trial.state.is_finished():
                self._read.add(trial.number)

    def _add(self, record: TrialRecord) -> None:
        assert record.architecture is not None
        self.tried.add(record.architecture)
        if record.state != "complete":
            return
        self.points[record.number] = self.point(record.architecture, record.parent)
        self._steps[record.number] = self._steps_behind(record.architecture, record.parent)
        self.complete.append(record)

    def point(self, architecture: Architecture, parent: int | None) -> Point:
        """Encode ``architecture`` as if it were trained from scratch for all steps behind its weights, up to Ω's most."""
        total = trained_for(architecture, self._steps_behind(architecture, parent), self._images)
        most = trained_for(architecture, REFINE.steps, self._images)
        return point(self._limits, min(total, most, key=lambda trained: trained.training.epochs))

    def _steps_behind(self, architecture: Architecture, parent: int | None) -> float:
        return steps_of(architecture, self._images) + (0.0 if parent is None else self._steps[parent])


def _nothing_fits(budget: Budget, nearest: Shortfall | None) -> str:
    rule = f"a network must fit in {budget.ram_bytes} bytes of RAM and {budget.flash_bytes} of flash, but none found does"
    if nearest is None:
        return f"{rule}; allow more RAM or make the inputs smaller"
    return f"{rule}: the nearest needs {nearest.needed} bytes of {nearest.memory}, most of it at '{nearest.where}'; allow as much"
