"""Chebyshev scalarisation with random weights (Paria, Kandasamy and Póczos, UAI 2019, section 3), objectives minimised.

F: (n, c) outcomes as ``Region.normalise`` gives them, 0 where the region of interest begins and 1 where it ends; the first k
are the objectives, the others only have limits. weights: (k,) λ with 1/λ_k ~ U(a_k, b_k), or (j, k) of j such draws. The
minimiser of max_k λ_k F_k is where the front meets the ray through 1/λ.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.search.pareto import Float64Array

# 1/λ_k ~ U(a, b): a > 0 keeps λ finite, b = 1 is the end of the region of interest.
INVERSE_WEIGHT_LOW = 0.02
INVERSE_WEIGHT_HIGH = 1.0
# Share of the draws at the corner where the error is all that counts and the rest may be used up: there lies the network that
# users ask for first, and of the rays drawn at random hardly any passes there.
CORNER_SHARE = 0.5
# Draws of the weights in a mean over them: between two neighbours on a front of a hundred points pass about five rays.
RAYS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """The box of objectives worth searching, in raw units: from the best value known to the worst that is of use.

    ``limited`` columns have an ``upper`` that is a budget, which a network keeps or is of no use.
    """

    lower: Float64Array  # (c,), below upper
    upper: Float64Array  # (c,)
    limited: npt.NDArray[np.bool_]  # (c,)

    def normalise(
        self,
        F: Float64Array,  # (n, c) raw outcomes
    ) -> Float64Array:  # (n, c)
        """Map ``lower`` to 0 and ``upper`` to 1, column by column."""
        return (F - self.lower) / (self.upper - self.lower)

    def excess(
        self,
        F: Float64Array,  # (n, c) raw outcomes
    ) -> Float64Array:  # (n,)
        """Return by how much each row breaks the limited columns, in widths of the region; 0 where it keeps them all."""
        return np.asarray(np.maximum(self.normalise(F)[:, self.limited] - 1.0, 0.0).sum(axis=1))


def draw_weights(
    k: int,
    error: int,  # which of the k objectives is the error
    rng: np.random.Generator,
) -> Float64Array:  # (j, k)
    """Draw the weights λ that a proposal goes by: those at the corner alone, or many at random."""
    if rng.random() < CORNER_SHARE:
        return 1.0 / np.where(np.arange(k) == error, INVERSE_WEIGHT_LOW, INVERSE_WEIGHT_HIGH)[None]
    return random_weights(k, rng)


def random_weights(k: int, rng: np.random.Generator) -> Float64Array:  # (RAYS, k)
    """Draw RAYS times the weights λ of a scalarisation."""
    return 1.0 / rng.uniform(INVERSE_WEIGHT_LOW, INVERSE_WEIGHT_HIGH, size=(RAYS, k))


def chebyshev(
    F: Float64Array,  # (n, k)
    weights: Float64Array,  # (k,)
) -> Float64Array:  # (n,)
    """Return g(f, λ) = max_k λ_k f_k of every row."""
    return np.asarray((F * weights).max(axis=1))


def preference(
    F: Float64Array,  # (n, c) raw outcomes
    region: Region,
    weights: Float64Array,  # (k,)
) -> npt.NDArray[np.intp]:  # (n,)
    """Return the rows in order of preference: those within the limits by their scalar, then the others by their excess."""
    scalars = chebyshev(region.normalise(F)[:, : len(weights)], weights)
    return np.lexsort((scalars, region.excess(F)))


def gains(
    F: Float64Array,  # (m, c) raw outcomes of candidates
    incumbents: Float64Array,  # (n, c) raw outcomes of what is known
    region: Region,
    weights: Float64Array,  # (j, k)
) -> Float64Array:  # (m,)
    """Return what each candidate alone adds to the incumbents, in the mean over the weights: 0 where it breaks a limit.

    It is measured from the end of the region, along rays to what the weights ask for: how far the front reaches beyond it, to the
    power of k. In the mean over 1/λ ~ U(0, 1) that is the dominated hypervolume (Zhang and Golovin, "Random hypervolume
    scalarizations for provable multi-objective black box optimization", ICML 2020).
    """
    kept = incumbents[region.excess(incumbents) <= 0.0]
    reached = _reach(kept, region, weights).max(axis=1, initial=0.0)
    gained = np.maximum(_reach(F, region, weights) - reached[:, None], 0.0).mean(axis=0)
    return np.where(region.excess(F) <= 0.0, gained, 0.0)


def _reach(
    F: Float64Array,  # (n, c) raw outcomes
    region: Region,
    weights: Float64Array,  # (j, k)
) -> Float64Array:  # (j, n)
    """Return the volume, in boxes of the region, of the largest box along each ray from the region's end that a row dominates."""
    rays = INVERSE_WEIGHT_LOW + INVERSE_WEIGHT_HIGH - 1.0 / weights
    # Over its largest part: as many uniform draws have a ray's direction as the cube is long there, to the power of k.
    rays = rays / rays.max(axis=1, keepdims=True)
    k = weights.shape[1]
    lengths = 1.0 - region.normalise(F)[:, :k].T  # (k, n)
    # One column at a time, for (j, n, k) is large.
    least = functools.reduce(np.minimum, (lengths[column] / rays[:, column, None] for column in range(k)))
    return np.asarray(np.maximum(least, 0.0) ** k)
