"""The problems of optimisers.py: two whose fronts are known, and omega_bench.

x: a point; F: (k,) objectives, all minimised and positive; ``floors`` are added before their logarithms are modelled.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import optuna

from sparse_mcu.search import records
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.guide import ERROR_FLOOR, Point, point
from sparse_mcu.search.omega import choose_by
from sparse_mcu.search.sampler import SparseSampler
from sparse_mcu.search.scalarise import Region, random_weights
from sparse_mcu.search.stages import REFINE
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.morph import MORPHS, morph
from sparse_mcu.space.suggest import fits, sample, suggest

Float64Array = npt.NDArray[np.float64]
REFERENCE_ERROR = 0.1  # of omega_bench
STEP = 0.15  # standard deviation of a change of a coordinate in [0, 1]


class Problem(Protocol):
    """What an optimiser may ask of a problem."""

    evaluations: int
    reference: Float64Array  # (k,) of the hypervolume
    floors: Float64Array  # (k,)
    constraints: tuple[str, ...]  # of ``evaluate``, those that no objective's reference already states

    def walk(self, trial: optuna.Trial) -> Any:
        """Let an Optuna trial choose a point."""

    def draw(self, rng: np.random.Generator) -> Any:
        """Return a random point."""

    def change(self, x: Any, rng: np.random.Generator) -> Any:
        """Return a point near x."""

    def encode(self, x: Any) -> Point:
        """Return the coordinates in [0, 1] and which of them are active."""

    def refuses(self, x: Any) -> bool:
        """Say whether it is known beforehand that x is of no use."""

    def evaluate(self, x: Any) -> tuple[Float64Array, Mapping[str, float]]:
        """Return the objectives (k,), and by which share of it each limit is exceeded: 0 or less where it is kept."""

    def our_sampler(self, seed: int, told: bool) -> optuna.samplers.BaseSampler | None:
        """Return our optimiser for this problem, ``told`` of the reference or as a search has it.

        None where only its parts apply, for the space is not Ω; these are always told.
        """


class _Box:
    """Points of a unit cube, the base of the standard problems; ``active`` says which coordinates of a point count."""

    dimensions: int
    evaluations = 100
    floors = np.zeros(2)
    constraints: tuple[str, ...] = ()

    def walk(self, trial: optuna.Trial) -> Float64Array:
        """Ask for every coordinate that counts."""
        x = np.zeros(self.dimensions)
        for index in range(self.dimensions):
            if self.active(x)[index]:
                x[index] = trial.suggest_float(f"x{index}", 0.0, 1.0)
        return x

    def draw(self, rng: np.random.Generator) -> Float64Array:
        """Return a uniform point."""
        return self._closed(rng.uniform(size=self.dimensions))

    def change(self, x: Float64Array, rng: np.random.Generator) -> Float64Array:
        """Move a few coordinates by a normal step; what is switched on is drawn anew."""
        moved = rng.uniform(size=self.dimensions) < max(2.0 / self.dimensions, 0.2)
        moved[rng.integers(self.dimensions)] = True
        drawn = np.where(self.active(x), np.clip(x + STEP * rng.normal(size=self.dimensions), 0.0, 1.0), rng.uniform(size=len(x)))
        return self._closed(np.where(moved | ~self.active(x), drawn, x))

    def encode(self, x: Float64Array) -> Point:
        """Return the point itself."""
        return x, self.active(x)

    def refuses(self, x: Float64Array) -> bool:
        """Return False: nothing is known beforehand."""
        return False

    def our_sampler(self, seed: int, told: bool) -> None:
        """Return None: the space is not Ω."""
        return None

    def active(self, x: Float64Array) -> npt.NDArray[np.bool_]:
        """Say which coordinates of ``x`` count: here all."""
        return np.ones(self.dimensions, dtype=np.bool_)

    def _closed(self, x: Float64Array) -> Float64Array:
        return np.where(self.active(x), x, 0.0)


class ConstrainedBraninCurrin(_Box):
    """Branin and Currin on the unit square within a disc (BoTorch's test function), in their usual reference point."""

    dimensions = 2
    reference = np.array([80.0, 12.0])
    constraints = ("disc",)

    def evaluate(self, x: Float64Array) -> tuple[Float64Array, Mapping[str, float]]:
        """Return Branin and Currin, and the squared distance from the disc's centre."""
        a, b = 15.0 * x[0] - 5.0, 15.0 * x[1]
        t = 1.0 / (8.0 * math.pi)
        branin = (b - 5.1 / (4.0 * math.pi**2) * a**2 + 5.0 / math.pi * a - 6.0) ** 2 + 10.0 * (1.0 - t) * math.cos(a) + 10.0
        factor = 1.0 - math.exp(-1.0 / (2.0 * x[1])) if x[1] > 0.0 else 1.0
        numerator = 2300.0 * x[0] ** 3 + 1900.0 * x[0] ** 2 + 2092.0 * x[0] + 60.0
        currin = factor * numerator / (100.0 * x[0] ** 3 + 500.0 * x[0] ** 2 + 4.0 * x[0] + 20.0)
        return np.array([branin, currin]), {"disc": ((a - 2.5) ** 2 + (b - 7.5) ** 2) / 50.0 - 1.0}


class ConditionalZdt(_Box):
    """ZDT1 in 8 dimensions with a switch: x7 below one half is ZDT1, above it ZDT2 of x0 and of coordinates 4 to 6 alone."""

    dimensions = 8
    reference = np.array([1.1, 3.0])
    floors = np.array([0.05, 0.05])

    def active(self, x: Float64Array) -> npt.NDArray[np.bool_]:
        """Say which coordinates the switch leaves on."""
        first = x[7] < 0.5
        return np.array([True, first, first, first, not first, not first, not first, True])

    def walk(self, trial: optuna.Trial) -> Float64Array:
        """Ask for the switch first."""
        x = np.zeros(self.dimensions)
        for index in (7, *range(7)):
            if self.active(x)[index]:
                x[index] = trial.suggest_float(f"x{index}", 0.0, 1.0)
        return x

    def evaluate(self, x: Float64Array) -> tuple[Float64Array, Mapping[str, float]]:
        """Return ZDT1 or ZDT2."""
        first = x[7] < 0.5
        rest = x[1:4] if first else x[4:7]
        g = 1.0 + 9.0 * float(rest.mean())
        share = x[0] / g
        return np.array([x[0], g * (1.0 - (math.sqrt(share) if first else share**2))]), {}


class Omega:
    """omega_bench: accuracy of at least 90 % within the budget counts."""

    evaluations = 200
    constraints: tuple[str, ...] = ()

    def __init__(self) -> None:
        from omega_bench import problem
        from omega_bench.surrogate import Surrogate

        self._problem = problem
        self._surrogate = Surrogate(problem.read_points())
        self._feasible = functools.lru_cache(maxsize=4096)(Feasibility(problem.BOARD, problem.BUDGET).shortfall)
        self.reference = np.array([REFERENCE_ERROR, problem.BUDGET.flash_bytes, problem.BUDGET.ram_bytes])
        self.floors = np.array([ERROR_FLOOR, 0.0, 0.0])
        self._told = 0

    def walk(self, trial: optuna.Trial) -> Architecture:
        """Walk Ω as a search does, and note in the trial what our sampler reads there."""
        architecture = suggest(self._problem.LIMITS, choose_by(trial))
        trial.set_user_attr(records.ARCHITECTURE, architecture.to_json())
        if not self.refuses(architecture):
            objectives = dict(zip(self._problem.GOAL.minimised, self._surrogate(architecture).tolist(), strict=True))
            trial.set_user_attr(records.OBJECTIVES, objectives)
            self._told += 1
        return architecture

    def draw(self, rng: np.random.Generator) -> Architecture:
        """Return a random architecture that fits the limits."""
        return self._problem.standard(sample(self._problem.LIMITS, rng))

    def change(self, x: Architecture, rng: np.random.Generator) -> Architecture:
        """Return a morph of a morph, up to three."""
        for _ in range(rng.integers(1, 4)):
            _, x = morph(x, self._problem.LIMITS, rng, MORPHS)
        return self._problem.standard(x)

    def encode(self, x: Architecture) -> Point:
        """Encode as our own surrogate does."""
        return point(self._problem.LIMITS, x)

    def refuses(self, x: Architecture) -> bool:
        """Refuse what cannot fit, as a search does."""
        return not fits(self._problem.LIMITS, x) or self._feasible(x) is not None

    def evaluate(self, x: Architecture) -> tuple[Float64Array, Mapping[str, float]]:
        """Return error, flash and RAM."""
        F = self._surrogate(x)
        return F, self._problem.BUDGET.excesses(dict(zip(self._problem.GOAL.minimised, F.tolist(), strict=True)))

    def our_sampler(self, seed: int, told: bool) -> SparseSampler:
        """Return our sampler as a search has it until it polishes: to train on what was found is nothing that the table knows."""
        self._told = 0
        p = self._problem
        # Polishing begins in the last stage before it, once that one finds nothing better.
        latest = math.nextafter(REFINE.earliest, 0.0)

        def used() -> float:
            return min(REFINE.until * self._told / self.evaluations, latest)

        return (InTheBox if told else SparseSampler)(p.LIMITS, p.GOAL, p.IMAGES, seed, used, self._feasible)


class InTheBox(SparseSampler):
    """Ours, told what the others are told too: which box counts, and that all of it counts alike."""

    def interest(self, outcomes: Float64Array, rng: np.random.Generator) -> tuple[Region, Float64Array]:
        """Return the box up to the reference, and random weights."""
        region, _ = super().interest(outcomes, rng)
        upper = np.append(REFERENCE_ERROR, region.upper[1:])
        return dataclasses.replace(region, upper=upper), random_weights(len(upper), rng)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "branin-currin": ConstrainedBraninCurrin,
    "conditional-zdt": ConditionalZdt,
    "omega": Omega,
}
