import dataclasses

import numpy as np
import pytest

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.dimensions import Choice, Range, dimensions
from sparse_mcu.space.limits import SpaceLimits, TrainingLimits

LIMITS = SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=1024, flash_bytes=8192)
WIDTHS = Choice("width", (2, 4, 8, 16), (4, 8))


def test_a_feasible_value_is_its_own_nearest() -> None:
    assert [WIDTHS.nearest(value) for value in WIDTHS.values] == [4, 4, 8, 8]


def test_of_two_nearest_the_smaller_is_taken() -> None:
    assert Choice("width", (2, 4, 8), (2, 8)).nearest(4) == 2


def test_an_unordered_choice_falls_back_on_the_first() -> None:
    assert Choice("kind", ("a", "b", "c"), ("a", "b"), ordered=False).nearest("c") == "a"


def test_a_value_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="width must be one of 2, 4, 8, 16, but is 5"):
        WIDTHS.nearest(5)


@pytest.mark.parametrize("value", [0.9, 10.1, float("nan"), "1"])
def test_a_value_outside_a_range_is_refused(value: float | str) -> None:
    with pytest.raises(ArchitectureError, match=r"rate must be from 1 to 10, but is"):
        Range("rate", 1, 10).nearest(value)


def test_a_whole_range_takes_no_fractions() -> None:
    assert Range("epochs", 1, 10, integer=True).nearest(7) == 7
    with pytest.raises(ArchitectureError, match="epochs must be a whole number from 1 to 10, but is 7.5"):
        Range("epochs", 1, 10, integer=True).nearest(7.5)


def quantiles(count: int) -> np.ndarray:  # the middles of ``count`` equal parts of [0, 1)
    return (np.arange(count) + 0.5) / count


def test_quantiles_share_out_the_feasible_values() -> None:
    drawn = [WIDTHS.at(q) for q in quantiles(100)]
    assert drawn == [4] * 50 + [8] * 50


def test_weights_share_out_the_feasible_values() -> None:
    choice = Choice("stride", (1, 2, 3), (1, 2, 3), weights=(8.0, 1.0, 1.0))
    assert [choice.at(q) for q in quantiles(100)] == [1] * 80 + [2] * 10 + [3] * 10
    assert [choice.among((1, 3)).at(q) for q in quantiles(90)] == [1] * 80 + [3] * 10
    assert choice.at(np.nextafter(1, 0)) == 3


def test_a_range_is_log_uniform() -> None:
    rate = Range("rate", 1e-3, 1e-1)
    assert [rate.at(q) for q in (0, 0.5, 1)] == pytest.approx([1e-3, 1e-2, 1e-1])
    assert rate.coordinates(1e-2) == pytest.approx([0.5])
    assert rate.coordinates(rate.low) == [0.0] and rate.coordinates(rate.high) == [1.0]


def test_a_whole_range_reaches_both_ends() -> None:
    epochs = Range("epochs", 5, 8, integer=True)
    drawn = [epochs.at(q) for q in quantiles(1000)]
    assert sorted(set(drawn)) == [5, 6, 7, 8]
    # log-uniform: 5 takes log(6/5) / log(9/5) of the draws
    assert drawn.count(5) / 1000 == pytest.approx(np.log(6 / 5) / np.log(9 / 5), abs=2e-3)
    assert epochs.at(1.0) == 8


def test_coordinates_of_choices() -> None:
    assert WIDTHS.coordinates(4) == pytest.approx([1 / 3])
    assert Choice("kind", ("a", "b"), ("a", "b"), ordered=False).coordinates("b") == [1.0]
    assert Choice("kind", ("a", "b", "c"), ("a",), ordered=False).coordinates("b") == [0.0, 1.0, 0.0]


def test_names_are_unique_and_depend_on_the_limits_alone() -> None:
    names = [dimension.name for dimension in dimensions(LIMITS)]
    assert len(set(names)) == len(names)
    assert "block1.conv0.kernel" in names
    wider = dataclasses.replace(LIMITS, channels=(2, 3), max_weights=9)
    assert [dimension.name for dimension in dimensions(wider)] == names


def test_a_fixed_value_is_no_dimension() -> None:
    fixed = dataclasses.replace(LIMITS, kinds=("regular",), training=TrainingLimits(epochs=(9, 9), methods=("none",)))
    names = {dimension.name for dimension in dimensions(fixed)}
    assert not names & {"block0.conv0.kind", "training.epochs", "training.pruning.method"}


def test_no_value_is_ruled_out_by_its_weight() -> None:
    for dimension in dimensions(LIMITS):
        if isinstance(dimension, Choice) and dimension.weights:
            assert len(dimension.weights) == len(dimension.values)
            assert min(dimension.weights) > 0.02 * sum(dimension.weights)


def test_every_value_is_feasible_before_the_walk() -> None:
    assert all(d.feasible == d.values for d in dimensions(LIMITS) if isinstance(d, Choice))
