"""Fixed-point arithmetic against Python's unbounded integers and fractions, and its bounds against brute force."""

import math
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.quant.fixedpoint import (
    INT32_MAX,
    MAX_MULTIPLIER,
    add_magnitude,
    add_scale,
    average_magnitude,
    average_scale,
    fits_int32,
    largest_shift,
    requantise,
    sum_bounds,
)
from sparse_mcu.quant.graph import INPUT, Conv2d, DepthwiseConv2d, TensorType

LIMITS = {"uint8": (0, 255), "int16": (-32768, 32767)}
UINT8 = TensorType((2, 2, 1), "uint8", 1.0)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_requantise_rounds_half_up_and_clamps(data):
    multiplier = data.draw(st.integers(1, 255))
    shift = data.draw(st.integers(0, 31))
    largest = (INT32_MAX - 2**shift // 2) // multiplier
    sums = data.draw(st.lists(st.integers(-largest, largest) | st.sampled_from([-largest, largest]), min_size=1, max_size=8))
    dtype = data.draw(st.sampled_from(["uint8", "int16"]))
    low, high = LIMITS[dtype]
    expected = [min(max(math.floor(Fraction(s * multiplier, 2**shift) + Fraction(shift > 0, 2)), low), high) for s in sums]
    result = requantise(np.array(sums, np.int32), multiplier, shift, dtype)
    assert result.dtype == dtype
    assert result.tolist() == expected


def test_requantise_takes_a_multiplier_and_a_shift_per_channel():
    sums = np.array([[100, 100, -100]], np.int32)
    assert requantise(sums, [1, 3, 3], [0, 2, 2], "int16").tolist() == [[100, 75, -75]]


@pytest.mark.parametrize(("total", "expected"), [(3, 2), (2, 1), (1, 1), (0, 0), (-1, 0), (-2, -1), (-3, -1)])
def test_halves_go_up_for_either_sign(total, expected):
    assert requantise(np.array([total], np.int32), 1, 1, "int16").tolist() == [expected]


@given(st.integers(0, 2**31), st.integers(0, 255), st.integers(0, 31))
def test_fits_int32_says_whether_the_largest_step_fits(magnitude, multiplier, shift):
    assert bool(fits_int32(magnitude, multiplier, shift)) == (magnitude * multiplier + 2**shift // 2 < 2**31)


def convolution(weights, bias):
    """A 2x1 convolution (two taps) to one channel."""
    return Conv2d(
        "conv",
        (INPUT,),
        np.array(weights, np.int8).reshape(1, 2, 1, 1),
        np.array([bias], np.int32),
        np.ones(1, np.int32),
        np.zeros(1, np.int32),
    )


@given(st.tuples(st.integers(-127, 127), st.integers(-127, 127)), st.integers(-100_000, 100_000))
def test_sum_bounds_are_reached_and_never_left_in_any_order(weights, bias):
    low, high = sum_bounds(convolution(weights, bias), UINT8)
    partial = {0}
    for pixels in product((0, 255), repeat=2):
        terms = [bias, *(w * x for w, x in zip(weights, pixels, strict=True))]
        for order in permutations(terms):
            partial |= {sum(order[:count]) for count in range(1, 4)}
    assert (low[0], high[0]) == (min(partial), max(partial))


def test_sum_bounds_of_a_depthwise_convolution_are_per_channel():
    weights = np.array([[[1, -2, 3]], [[4, 5, -6]]], np.int8)  # (2, 1, 3)
    unset = np.zeros(3, np.int32)
    op = DepthwiseConv2d("depthwise", (INPUT,), weights, np.array([10, -10, 0], np.int32), unset, unset)
    low, high = sum_bounds(op, UINT8)
    assert low.tolist() == [0, -2 * 255 - 10, -6 * 255]
    assert high.tolist() == [5 * 255 + 10, 5 * 255, 3 * 255]


@given(st.floats(1e-12, 1e6), st.sampled_from([255, 32767]))
def test_largest_shift_is_the_largest_that_keeps_the_limit(ratio, limit):
    shift = int(largest_shift(np.array([ratio]), limit)[0])
    exact = Fraction(ratio)
    assert shift == 0 or exact * 2**shift <= limit * (1 + Fraction(1, 2**50))
    assert shift == 31 or exact * 2 ** (shift + 1) > limit * (1 - Fraction(1, 2**50))


scales = st.floats(1e-4, 1e4)


@given(st.lists(st.tuples(scales, st.sampled_from(["uint8", "int16"])), min_size=2, max_size=4), scales)
def test_an_addition_fits_int32_and_stands_for_its_ratios(inputs, output_scale):
    types = [TensorType((1, 1, 1), dtype, scale) for scale, dtype in inputs]
    ratios = [min(tensor.scale / output_scale, 1000.0) for tensor in types]
    multiplier, shift = add_scale(ratios, types)
    assert min(multiplier) >= 0 and max(multiplier) <= MAX_MULTIPLIER
    assert fits_int32(add_magnitude(multiplier, types), 1, shift)
    for m, ratio in zip(multiplier, ratios, strict=True):
        assert abs(m / 2**shift - ratio) <= 0.5 / 2**shift


@pytest.mark.parametrize(
    ("ratios", "expected"), [((1.0, 1.0), ((1, 1), 0)), ((0.25, 0.25), ((1, 1), 2)), ((2.0, 0.5), ((4, 1), 1))]
)
def test_powers_of_two_leave_small_multipliers(ratios, expected):
    assert add_scale(ratios, [TensorType((1, 1, 1), "int16", 1.0)] * 2) == expected


def rounded_means(window, bits):
    """Every sum of a window, and its mean times 2**bits rounded half up and clamped."""
    count = math.prod(window)
    sums = np.arange(average_magnitude(window) + 1, dtype=np.int64)
    return sums.astype(np.int32), np.minimum((2 ** (bits + 1) * sums + count) // (2 * count), 255)


@pytest.mark.parametrize("bits", [0, 1, 3])
@pytest.mark.parametrize("window", [(1, 1), (2, 2), (1, 3), (3, 3), (2, 5), (7, 1), (4, 4), (5, 7)])
def test_every_mean_of_a_window_is_rounded_half_up(window, bits):
    sums, expected = rounded_means(window, bits)
    np.testing.assert_array_equal(requantise(sums, *average_scale(window, bits), "uint8"), expected)


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("window", [(9, 9), (28, 28), (1, 1000), (64, 64)])
def test_means_of_large_windows_are_off_by_at_most_one_in_rare_ties(window, bits):
    multiplier, shift = average_scale(window, bits)
    assert multiplier <= MAX_MULTIPLIER and fits_int32(average_magnitude(window), multiplier, shift)
    sums, expected = rounded_means(window, bits)
    error = requantise(sums, multiplier, shift, "uint8").astype(int) - expected
    assert set(error) <= {0, 1}
    assert error.mean() < 0.05


@pytest.mark.parametrize(
    ("window", "bits", "shift"), [((1, 1), 0, 0), ((2, 1), 0, 1), ((2, 2), 0, 2), ((4, 4), 0, 4), ((4, 4), 3, 1)]
)
def test_a_window_of_a_power_of_two_needs_no_multiplication(window, bits, shift):
    assert average_scale(window, bits) == (1, shift)
