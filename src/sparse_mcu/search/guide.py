"""What the finished trials say about candidates not yet tried: Thompson draws of the surrogate, scalarised.

A single draw under a single weight sends most proposals where the front is as good as it gets, or to where one draw happened to
be low. So a candidate is ranked by what it adds to what was tried, as the same draw sees both, in the mean over several draws and
many weights: by what regret, a mean over the weights too (Paria, Kandasamy and Póczos, UAI 2019), is expected to lose.

n: finished trials; m: candidates of the pool; j: draws of the weights; k: objectives; c >= k: outcomes, ``Goal.columns``;
D: dimensions of the encoding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.search.objectives import Goal
from sparse_mcu.search.pareto import Float64Array, non_dominated
from sparse_mcu.search.scalarise import Region, gains, preference
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.encode import encode
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.memory import peak_activations

# However small, a network is of no interest that errs more often than the best within the budget by this, and by this share.
ERROR_MARGIN, RELATIVE_ERROR_MARGIN = 0.02, 0.25
# Surrogates see log(error + this): of errors much below it, the luck of the split and of the training is the larger part.
ERROR_FLOOR = 0.02
# Hyperparameters are fitted anew whenever the finished trials have grown by this factor.
REFIT_GROWTH = 1.1
# Functions drawn for a proposal. More find nothing better, and few leave workers that ask at once as different as one draw does.
DRAWS = 32
# The time of an exact Gaussian process grows with the cube of its observations: hyperparameters are fitted to so many at most,
# and a draw depends on so many.
FITTED_MOST, HEARD_MOST = 300, 1000
INCUMBENTS_MOST = 300  # of them, drawn along with the pool
KNOWN_COSTS = 3  # coordinates that ``point`` adds to the encoding of Ω
# Counts are seen as log(count + this): a network from which everything left still has a logarithm.
COUNT_FLOOR = 1.0

Point = tuple[Float64Array, npt.NDArray[np.bool_]]  # values (D,), active (D,)


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What the finished trials measured."""

    points: Sequence[Point]  # n
    outcomes: Float64Array  # (n, c) raw


class Guide:
    """Ranks candidates by what was observed; follows from the observations and the generator alone.

    ``floors`` are added to outcomes before their logarithms are modelled. ``telling``: see Surrogate.
    """

    def __init__(
        self,
        floors: Float64Array,  # (c,)
        telling: int = 0,
    ) -> None:
        self._floors = floors
        self._telling = telling
        self._fitted = 0  # number of observations behind the hyperparameters

    @classmethod
    def of(cls, goal: Goal) -> "Guide":
        """Return the guide of a search for ``goal``, whose points are those of ``point``."""
        return cls(np.array([ERROR_FLOOR if name == "error" else COUNT_FLOOR for name in goal.columns]), KNOWN_COSTS)

    def rank(
        self,
        observed: Observations,
        pool: Sequence[Point],  # m
        region: Region,
        weights: Float64Array,  # (j, k) of the scalarisations
        rng: np.random.Generator,
    ) -> npt.NDArray[np.intp]:  # (m,)
        """Return the positions in ``pool``, the most promising first."""
        import torch

        from sparse_mcu.search.surrogate import Surrogate, inputs

        def tensors(chosen: npt.NDArray[np.intp]) -> tuple[torch.Tensor, torch.Tensor]:
            Y = np.log(observed.outcomes[chosen] + self._floors)
            return inputs([observed.points[index] for index in chosen]), torch.from_numpy(Y)

        basis = fit_size(len(observed.points))
        if basis != self._fitted:
            self._surrogate = Surrogate(*tensors(spread(basis, FITTED_MOST)), telling=self._telling)
            self._fitted = basis
        self._surrogate.condition(*tensors(heard(observed.outcomes, region, weights[0])))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        # Drawn along with the pool: what was measured may have been lucky, and says the same of what resembles it.
        tried = [observed.points[index] for index in incumbents(observed.outcomes, region, weights[0])]
        drawn = np.exp(self._surrogate.draw(inputs([*tried, *pool]), generator, DRAWS).numpy()) - self._floors
        gained = np.mean([gains(F[len(tried) :], F[: len(tried)], region, weights) for F in drawn], axis=0)
        # Where nothing is gained, as one draw and one weight have it.
        fallback = np.argsort(preference(drawn[0, len(tried) :], region, weights[0]))
        return np.lexsort((fallback, -gained))


def incumbents(
    outcomes: Float64Array,  # (n, c) raw
    region: Region,
    weights: Float64Array,  # (k,)
) -> npt.NDArray[np.intp]:  # (at most INCUMBENTS_MOST,)
    """Return the observations that a candidate has to beat: all, or the front and what ``weights`` prefers.

    Not the front alone: next to what was just outside a limit, say, a draw sees much to gain for as long as it may forget that
    this was tried.
    """
    order = preference(outcomes, region, weights)
    within = order[region.excess(outcomes[order]) <= 0.0]
    front = within[non_dominated(outcomes[within, : len(weights)])]
    return np.concatenate([front, order[~np.isin(order, front)]])[:INCUMBENTS_MOST]


def heard(
    outcomes: Float64Array,  # (n, c) raw
    region: Region,
    weights: Float64Array,  # (k,)
) -> npt.NDArray[np.intp]:  # (at most HEARD_MOST,)
    """Return the observations that a draw depends on: half are those that ``weights`` prefers, half are spread over the rest."""
    if len(outcomes) <= HEARD_MOST:
        return np.arange(len(outcomes))
    preferred = preference(outcomes, region, weights)
    best, rest = preferred[: HEARD_MOST // 2], preferred[HEARD_MOST // 2 :]
    return np.sort(np.concatenate([best, rest[spread(len(rest), HEARD_MOST // 2)]]))


def spread(n: int, most: int) -> npt.NDArray[np.intp]:
    """Return the positions of ``n`` things, or where these are more than ``most`` so many, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(np.intp)


def fit_size(n: int) -> int:
    """Return how many of ``n`` observations the hyperparameters are fitted to: it grows in steps of REFIT_GROWTH.

    It depends on n alone, so that a search that was resumed proposes what it would have proposed.
    """
    size = 1
    while (larger := max(size + 1, int(size * REFIT_GROWTH))) <= n:
        size = larger
    return size


def region_of_interest(
    outcomes: Float64Array,  # (n, c) raw, n >= 1
    goal: Goal,
) -> Region:
    """Return the region from the best that is known of each outcome to its limit, and to the largest error of interest."""
    error = goal.columns.index("error")
    limits = np.array([goal.budget.limits.get(name, math.inf) for name in goal.columns])
    limited = np.isfinite(limits)
    within = (outcomes <= limits).all(axis=1)
    known = outcomes[within] if within.any() else outcomes
    worst = (1.0 + RELATIVE_ERROR_MARGIN) * known[:, error].min() + ERROR_MARGIN
    # The smallest network of all is usually one that learnt nothing.
    useful = known[known[:, error] <= worst]
    upper = np.where(limited, limits, np.maximum(useful.max(axis=0), 1.0))
    upper[error] = worst
    # At least a factor of two wide: what is known of a cost may be few networks, or only ones beyond the budget.
    lower = np.minimum(useful.min(axis=0), 0.5 * upper)
    lower[error] = useful[:, error].min()
    return Region(lower, upper, limited)


def point(limits: SpaceLimits, architecture: Architecture) -> Point:
    """Encode ``architecture`` for the surrogate: its place in Ω, and what is known of its costs before training."""
    values, active = encode(limits, architecture)
    network = layers(architecture)
    weights = sum(layer.weights for layer in network)
    macs = sum(layer.macs for layer in network)
    known = [
        math.log1p(weights) / math.log1p(limits.max_weights),
        math.log1p(macs) / math.log1p(limits.max_weights * math.prod(limits.input_shape[1:])),
        math.log1p(peak_activations(network).bytes) / math.log1p(limits.max_activation_bytes),
    ]
    return np.append(values, known), np.append(active, [True] * len(known))
