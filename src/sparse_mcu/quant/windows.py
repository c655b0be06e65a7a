"""Sliding windows over batches of feature maps, and convolution as one matrix product over them: for floats and for integers.

N: images; H, W, C: height, width, channels; H', W': those of the output; O: output channels; KH, KW: kernel height and width.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
CHUNK_BYTES = 32 * 2**20  # of the copied windows, which take KH * KW times the room of a feature map


def windows(x: Array, kernel: tuple[int, int], stride: tuple[int, int]) -> Array:
    """View ``x`` (N, H, W, C) as its windows (N, H', W', C, KH, KW)."""
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return view[:, :: stride[0], :: stride[1]]


def convolve(
    x: Array,  # (N, H, W, C)
    weights: Array,  # (O, KH, KW, C), or depthwise (KH, KW, C); a floating type
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],  # top, left, bottom, right; zeros
) -> Array:  # (N, H', W', O), the type of weights
    """Correlate ``x`` with ``weights``; exact if all that can be summed are integers which the type of ``weights`` holds."""
    top, left, bottom, right = padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    patches = windows(padded, weights.shape[-3:-1], stride)
    channels = weights.shape[-1] if weights.ndim == 3 else len(weights)
    sums = np.empty((*patches.shape[:3], channels), weights.dtype)
    images = max(1, CHUNK_BYTES // (math.prod(patches.shape[1:]) * weights.itemsize))
    for start in range(0, len(x), images):
        sums[start : start + images] = _products(patches[start : start + images].astype(weights.dtype), weights)
    return sums


def _products(
    patches: Array,  # (N, H', W', C, KH, KW)
    weights: Array,  # as in convolve
) -> Array:  # (N, H', W', O)
    if weights.ndim == 3:
        return np.asarray(np.einsum("nhwcij,ijc->nhwc", patches, weights))
    columns = weights.transpose(3, 1, 2, 0).reshape(-1, len(weights))
    return np.asarray(patches.reshape(*patches.shape[:3], -1) @ columns)
