import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.search.scalarise import INVERSE_WEIGHT_HIGH, INVERSE_WEIGHT_LOW, Region, chebyshev, draw_weights

REGION = Region(
    lower=np.array([0.02, 1024.0, 256.0]),
    upper=np.array([0.12, 8192.0, 1024.0]),
    logarithmic=np.array([False, True, True]),
    limited=np.array([False, True, True]),
)


def test_inverse_weights_are_uniform() -> None:
    rng = np.random.default_rng(0)
    inverse = 1.0 / np.stack([draw_weights(3, rng) for _ in range(4000)])
    quantiles = np.linspace(0.1, 0.9, 9)
    expected = INVERSE_WEIGHT_LOW + quantiles * (INVERSE_WEIGHT_HIGH - INVERSE_WEIGHT_LOW)
    for column in inverse.T:
        # 4000 draws: the standard error of a quantile is below 0.008
        assert np.quantile(column, quantiles) == pytest.approx(expected, abs=0.035)
    assert np.abs(np.corrcoef(inverse.T) - np.eye(3)).max() < 0.06


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_chebyshev_is_the_largest_weighted_objective(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F, weights = rng.normal(size=(7, 3)), draw_weights(3, rng)
    expected = [max(weights[k] * F[i, k] for k in range(3)) for i in range(7)]
    assert chebyshev(F, weights).tolist() == expected


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_minimiser_lies_on_the_front(seed: int) -> None:
    rng = np.random.default_rng(seed)
    F = rng.uniform(size=(40, 3))
    best = F[chebyshev(F, draw_weights(3, rng)).argmin()]
    assert not any((row <= best).all() and (row < best).all() for row in F)


def test_every_point_of_a_concave_front_is_some_minimiser() -> None:
    """What linear weights cannot do: they only ever find the two ends of a concave front."""
    angle = np.linspace(0.0, np.pi / 2, 21)
    F = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # concave towards the origin
    rng = np.random.default_rng(1)
    found = {int(chebyshev(F, draw_weights(2, rng)).argmin()) for _ in range(2000)}
    assert set(range(2, 19)) <= found


def test_region_maps_its_corners_to_zero_and_one() -> None:
    corners = np.stack([REGION.lower, REGION.upper])
    assert REGION.normalise(corners) == pytest.approx(np.array([[0.0] * 3, [1.0] * 3]))


def test_bytes_are_compared_by_ratio() -> None:
    sizes = np.array([[0.02, 1024.0, 256.0], [0.02, 2048.0, 256.0], [0.02, 4096.0, 256.0]])
    steps = np.diff(REGION.normalise(sizes)[:, 1])
    assert steps == pytest.approx([1 / 3, 1 / 3])


def test_excess_counts_only_what_breaks_a_limit() -> None:
    F = np.array([[0.9, 8192.0, 1024.0], [0.0, 16384.0, 1024.0], [0.0, 8192.0, 2048.0]])
    assert REGION.excess(F) == pytest.approx([0.0, 1 / 3, 1 / 2])
