import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.search.pareto import hypervolume
from sparse_mcu.search.scalarise import (
    CORNER_SHARE,
    INVERSE_WEIGHT_HIGH,
    INVERSE_WEIGHT_LOW,
    Region,
    chebyshev,
    draw_weights,
    gains,
    preference,
    random_weights,
)

REGION = Region(
    lower=np.array([0.02, 1024.0, 256.0]),
    upper=np.array([0.12, 8192.0, 1024.0]),
    limited=np.array([False, True, True]),
)


def test_weights_are_drawn_at_the_corner_or_uniformly() -> None:
    rng = np.random.default_rng(0)
    drawn = [1.0 / draw_weights(3, 0, rng) for _ in range(2000)]
    at_corner = np.array([len(inverse) == 1 for inverse in drawn])
    assert at_corner.mean() == pytest.approx(CORNER_SHARE, abs=5 * 0.5 / 2000**0.5)  # five standard errors
    corner = drawn[int(at_corner.argmax())]
    assert corner.tolist() == [[INVERSE_WEIGHT_LOW, INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_HIGH]]


def test_random_weights_are_uniform_in_their_inverse() -> None:
    rng = np.random.default_rng(0)
    inverse = 1.0 / np.concatenate([random_weights(3, rng) for _ in range(8)])
    quantiles = np.linspace(0.1, 0.9, 9)
    expected = INVERSE_WEIGHT_LOW + quantiles * (INVERSE_WEIGHT_HIGH - INVERSE_WEIGHT_LOW)
    for column in inverse.T:
        # some 4000 draws: the standard error of a quantile is below 0.008
        assert np.quantile(column, quantiles) == pytest.approx(expected, abs=0.04)
    assert np.abs(np.corrcoef(inverse.T) - np.eye(3)).max() < 0.08


def test_the_corner_prefers_the_least_error_within_the_limits() -> None:
    corner = 1.0 / np.where(REGION.limited, INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_LOW)
    F = np.array([[0.05, 1100.0, 300.0], [0.03, 8000.0, 1000.0], [0.04, 4000.0, 600.0]])
    assert chebyshev(REGION.normalise(F), corner).argsort().tolist() == [1, 2, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_chebyshev_is_the_largest_weighted_objective(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F, weights = rng.normal(size=(7, 3)), draw_weights(3, 0, rng)[0]
    expected = [max(weights[k] * F[i, k] for k in range(3)) for i in range(7)]
    assert chebyshev(F, weights).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_minimiser_lies_on_the_front(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F = rng.uniform(size=(40, 3))
    best = F[chebyshev(F, draw_weights(3, 0, rng)[0]).argmin()]
    assert not any((row <= best).all() and (row < best).all() for row in F)


def test_every_point_of_a_concave_front_is_some_minimiser() -> None:
    """What linear weights cannot do: they only ever find the two ends of a concave front."""
    angle = np.linspace(0.0, np.pi / 2, 21)
    F = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # concave towards the origin
    rng = np.random.default_rng(1)
    found = {int(chebyshev(F, draw_weights(2, 0, rng)[0]).argmin()) for _ in range(4000)}
    assert set(range(2, 19)) <= found


def test_region_maps_its_corners_to_zero_and_one() -> None:
    corners = np.stack([REGION.lower, REGION.upper])
    assert REGION.normalise(corners) == pytest.approx(np.array([[0.0] * 3, [1.0] * 3]))


def test_excess_counts_only_what_breaks_a_limit() -> None:
    F = np.array([[0.9, 8192.0, 1024.0], [0.0, 16384.0, 1024.0], [0.0, 8192.0, 2048.0]])
    assert REGION.excess(F) == pytest.approx([0.0, 8192 / 7168, 1024 / 768])


def test_preference_puts_what_keeps_the_limits_first() -> None:
    F = np.array([[0.02, 9000.0, 500.0], [0.05, 4000.0, 500.0], [0.02, 8500.0, 500.0], [0.04, 4000.0, 500.0]])
    assert preference(F, REGION, np.array([3.0, 1.0, 1.0])).tolist() == [3, 1, 2, 0]


def test_mean_gain_is_the_hypervolume_that_a_candidate_adds() -> None:
    rng = np.random.default_rng(4)
    known, candidates = (REGION.lower + rng.uniform(0.2, 1.0, size=(n, 3)) * (REGION.upper - REGION.lower) for n in (5, 20))
    weights = np.concatenate([random_weights(3, rng) for _ in range(200)])
    gained = gains(candidates, known, REGION, weights)
    box = REGION.normalise(np.stack([REGION.upper]))[0]
    before = hypervolume(REGION.normalise(known), box)
    added = [hypervolume(REGION.normalise(np.vstack([known, candidate])), box) - before for candidate in candidates]
    # a hundred thousand rays, but none to the outermost fiftieth of the box
    assert max(added) > 0.03 and gained == pytest.approx(np.array(added), abs=0.006)


def test_what_breaks_a_limit_gains_nothing_and_is_nothing_to_beat() -> None:
    weights = random_weights(3, np.random.default_rng(5))
    inside, outside = np.array([[0.05, 4000.0, 500.0]]), np.array([[0.02, 1024.0, 1030.0]])
    assert gains(outside, inside, REGION, weights).tolist() == [0.0]
    alone = gains(inside, np.empty((0, 3)), REGION, weights)
    assert alone > 0.0 and gains(inside, outside, REGION, weights).tolist() == alone.tolist()
    assert gains(inside, inside, REGION, weights).tolist() == [0.0]


def test_at_the_corner_only_the_error_gains() -> None:
    corner = 1.0 / np.array([[INVERSE_WEIGHT_LOW, INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_HIGH]])
    known = np.array([[0.05, 4000.0, 500.0]])
    smaller, better = np.array([0.05, 2000.0, 300.0]), np.array([0.04, 7000.0, 900.0])
    gained = gains(np.stack([smaller, better]), known, REGION, corner)
    assert gained[0] == 0.0 and gained[1] > 0.0
