import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.search.scalarise import (
    CORNER_SHARE,
    INVERSE_WEIGHT_HIGH,
    INVERSE_WEIGHT_LOW,
    Region,
    chebyshev,
    draw_weights,
    preference,
)

REGION = Region(
    lower=np.array([0.02, 1024.0, 256.0]),
    upper=np.array([0.12, 8192.0, 1024.0]),
    limited=np.array([False, True, True]),
)


def test_weights_are_drawn_at_the_corner_or_uniformly() -> None:
    rng = np.random.default_rng(0)
    inverse = 1.0 / np.stack([draw_weights(3, 0, rng) for _ in range(8000)])
    at_corner = (inverse == [INVERSE_WEIGHT_LOW, INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_HIGH]).all(axis=1)
    assert at_corner.mean() == pytest.approx(CORNER_SHARE, abs=5 * 0.5 / 8000**0.5)  # five standard errors
    quantiles = np.linspace(0.1, 0.9, 9)
    expected = INVERSE_WEIGHT_LOW + quantiles * (INVERSE_WEIGHT_HIGH - INVERSE_WEIGHT_LOW)
    for column in inverse[~at_corner].T:
        # some 4000 draws: the standard error of a quantile is below 0.008
        assert np.quantile(column, quantiles) == pytest.approx(expected, abs=0.04)
    assert np.abs(np.corrcoef(inverse[~at_corner].T) - np.eye(3)).max() < 0.08


def test_the_corner_prefers_the_least_error_within_the_limits() -> None:
    corner = 1.0 / np.where(REGION.limited, INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_LOW)
    F = np.array([[0.05, 1100.0, 300.0], [0.03, 8000.0, 1000.0], [0.04, 4000.0, 600.0]])
    assert chebyshev(REGION.normalise(F), corner).argsort().tolist() == [1, 2, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_chebyshev_is_the_largest_weighted_objective(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F, weights = rng.normal(size=(7, 3)), draw_weights(3, 0, rng)
    expected = [max(weights[k] * F[i, k] for k in range(3)) for i in range(7)]
    assert chebyshev(F, weights).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_minimiser_lies_on_the_front(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F = rng.uniform(size=(40, 3))
    best = F[chebyshev(F, draw_weights(3, 0, rng)).argmin()]
    assert not any((row <= best).all() and (row < best).all() for row in F)


def test_every_point_of_a_concave_front_is_some_minimiser() -> None:
    """What linear weights cannot do: they only ever find the two ends of a concave front."""
    angle = np.linspace(0.0, np.pi / 2, 21)
    F = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # concave towards the origin
    rng = np.random.default_rng(1)
    found = {int(chebyshev(F, draw_weights(2, 0, rng)).argmin()) for _ in range(4000)}
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
