import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.search.pareto import hypervolume, non_dominated


def grid_points(seed: int, n: int, k: int) -> np.ndarray:
    """Points on a coarse grid, so that ties and equal rows are common."""
    return np.random.default_rng(seed).integers(0, 6, size=(n, k)).astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), k=st.integers(2, 4))
def test_non_dominated_is_what_enumeration_finds(seed: int, n: int, k: int) -> None:
    F = grid_points(seed, n, k)
    expected = [not any((q <= p).all() and (q < p).any() for q in F) for p in F]
    assert non_dominated(F).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), k=st.integers(2, 3))
def test_hypervolume_is_the_number_of_dominated_unit_cells(seed: int, n: int, k: int) -> None:
    F, reference = grid_points(seed, n, k), np.full(k, 5.0)
    cells = np.indices((5,) * k).reshape(k, -1).T  # lower corners of the unit cells of [0, 5]^k
    dominated = sum(any((p <= cell).all() for p in F) for cell in cells)
    assert hypervolume(F, reference) == pytest.approx(dominated)


def test_points_beyond_the_reference_add_nothing() -> None:
    inside, beyond = np.array([[1.0, 1.0]]), np.array([[0.0, 9.0]])
    reference = np.array([2.0, 2.0])
    assert hypervolume(np.concatenate([inside, beyond]), reference) == hypervolume(inside, reference) == 1.0
    assert hypervolume(beyond, reference) == 0.0
