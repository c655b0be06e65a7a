"""From sums back to small integers: fixed-point requantisation, and the proof that it stays within int32.

A sum S, of real value ``S * sum_scale``, becomes the integer ``(S * multiplier + half) >> shift``; half is ``1 << shift >> 1``.
``multiplier / 2**shift`` stands for the real ratio ``sum_scale / output_scale`` (Jacob et al., CVPR 2018, section 2.2, with a
multiplier of 8 bits instead of 32). O: output channels; C: channels.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_mcu.quant.graph import Conv2d, Convolution, DType, Int32Array, TensorType

Int64Array = npt.NDArray[np.int64]
INT32_MAX = 2**31 - 1
MAX_CHANNEL_MULTIPLIER = 255  # of a convolution's channel: one byte on the device
MAX_MULTIPLIER = 32767  # of an addition or an average: two bytes on the device
MAX_SHIFT = 31


def requantise(
    sums: Int32Array,  # (..., C)
    multiplier: npt.ArrayLike,  # broadcasts against sums
    shift: npt.ArrayLike,
    dtype: DType,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.int16]:
    """Return ``clamp((sums * multiplier + half) >> shift)`` as ``dtype``, in int32: ``fits_int32`` says when that is exact."""
    shift = np.asarray(shift, np.int32)
    scaled = sums * np.asarray(multiplier, np.int32)
    scaled += _half(shift).astype(np.int32)
    scaled >>= shift
    limits = np.iinfo(dtype)
    return scaled.clip(limits.min, limits.max, out=scaled).astype(dtype)


def fits_int32(
    magnitude: npt.ArrayLike,  # largest |sum|
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
) -> npt.NDArray[np.bool_]:
    """Whether ``|sum| * multiplier + half`` is at most 2**31 - 1, so that no step of the requantisation overflows."""
    products = np.asarray(magnitude, np.int64) * np.asarray(multiplier, np.int64)
    return np.asarray(products + _half(shift) <= INT32_MAX)


def sum_bounds(
    op: Convolution,
    input_type: TensorType,
) -> tuple[Int64Array, Int64Array]:  # each (O,)
    """Return the smallest and the largest value that a channel's sum can have at any moment, for any input.

    The bounds hold for every partial sum too, in whatever order the products and the bias are added.
    """
    low, high = input_type.limits
    weights = op.weights.astype(np.int64)
    weights = weights.reshape(weights.shape[0], -1) if isinstance(op, Conv2d) else weights.reshape(-1, weights.shape[2]).T
    bias = op.bias.astype(np.int64)
    smallest = np.minimum(weights * low, weights * high).sum(axis=1) + np.minimum(bias, 0)
    largest = np.maximum(weights * low, weights * high).sum(axis=1) + np.maximum(bias, 0)
    return smallest, largest


def add_magnitude(multiplier: Sequence[int], input_types: Sequence[TensorType]) -> int:
    """Return a bound on |sum of input_i * multiplier_i| of an addition and on all its partial sums."""
    return sum(m * max(map(abs, tensor.limits)) for m, tensor in zip(multiplier, input_types, strict=True))


def average_magnitude(window: tuple[int, int]) -> int:
    """Return the largest sum over a window of an average pool."""
    return window[0] * window[1] * 255


def largest_shift(
    ratio: npt.NDArray[np.float64],  # positive
    limit: int,
) -> Int64Array:
    """Return the largest shifts for which ``ratio * 2**shift``, rounded up, stays within ``limit``; 0 if there is none."""
    _, exponent = np.frexp(limit / ratio)  # limit / ratio = mantissa * 2**exponent, 0.5 <= mantissa < 1
    return np.clip(exponent.astype(np.int64) - 1, 0, MAX_SHIFT)


def add_scale(
    ratios: Sequence[float],  # input scale / output scale, per input
    input_types: Sequence[TensorType],
) -> tuple[tuple[int, ...], int]:
    """Return the multipliers and the shift of an addition: the finest that fit int32, halved together while all are even."""
    shift = int(largest_shift(np.array([max(ratios)]), MAX_MULTIPLIER)[0])
    while True:
        multiplier = tuple(round(ratio * 2**shift) for ratio in ratios)
        if shift == 0 or fits_int32(add_magnitude(multiplier, input_types), 1, shift):
            break
        shift -= 1
    while shift > 0 and all(m % 2 == 0 for m in multiplier):
        multiplier, shift = tuple(m // 2 for m in multiplier), shift - 1
    return multiplier, shift


def average_scale(window: tuple[int, int], bits: int) -> tuple[int, int]:
    """Return multiplier and shift of an average pool whose output is the mean times ``2**bits``.

    They are the smallest that round every mean right, or else the finest. For n values of sum S take
    ``multiplier = (2**total + e) / n`` and ``shift = total - bits``, e being the least that makes the multiplier whole. What is
    rounded is then above its true value by S e 2**bits / (n 2**total). A true value plus one half lies at least 1 / (2 n) below
    the next integer, so all are rounded right if 2 S e 2**bits < 2**total for the largest S.
    """
    count = math.prod(window)
    total = bits
    while (-(2**total) % count) * average_magnitude(window) * 2 >= 2 ** (total - bits):
        multiplier = _ceil_divide(2 ** (total + 1), count)
        if multiplier > MAX_MULTIPLIER or not fits_int32(average_magnitude(window), multiplier, total + 1 - bits):
            break
        total += 1
    return _ceil_divide(2**total, count), total - bits


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _half(shift: npt.ArrayLike) -> npt.NDArray[Any]:
    """Half of the step that the shift drops; 0 for a shift of 0. In int64, since 1 << 31 is no int32."""
    return (np.int64(1) << np.asarray(shift, np.int64)) >> 1
