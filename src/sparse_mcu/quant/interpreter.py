"""Reference interpreter: runs an integer graph in NumPy, exactly as docs/integer-arithmetic.md says, over batches of images.

N: images; H, W, C: height, width, channels; H', W': those of the output; O: output channels; I: input channels.
Products and sums go through floating-point matrix multiplication, which is fast and exact: integers below 2**24 (float32)
or 2**53 (float64) have no rounding, and ``sum_bounds`` says which of the two a layer needs.
"""

import math
from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.quant.fixedpoint import requantise, sum_bounds
from sparse_mcu.quant.graph import (
    INPUT,
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
)
from sparse_mcu.quant.verify import verify
from sparse_mcu.quant.windows import CHUNK_BYTES, convolve, windows

UInt8Array = npt.NDArray[np.uint8]
Int16Array = npt.NDArray[np.int16]
IntegerArray = npt.NDArray[Any]  # uint8 or int16


def run(
    graph: IntegerGraph,
    images: UInt8Array,  # (N, C, H, W)
) -> Int16Array:  # (N, classes)
    """Return the logits of ``images``, a chunk of them at a time: memory stays bounded whatever N is."""
    largest = max(math.prod(tensor.shape) for tensor in graph.tensors.values())
    size = max(1, CHUNK_BYTES // (largest * np.dtype(np.int32).itemsize))  # sums are int32
    logits = np.empty((len(images), graph.classes), np.int16)
    for start in range(0, len(images), size):
        logits[start : start + size] = run_tensors(graph, images[start : start + size])[graph.output][:, 0, 0]
    return logits


def run_tensors(
    graph: IntegerGraph,
    images: UInt8Array,  # (N, C, H, W)
) -> dict[str, IntegerArray]:  # each (N, H, W, C)
    """Return every tensor of ``graph``, the input included, by name: to see where two implementations part."""
    verify(graph)
    height, width, channels = graph.tensors[INPUT].shape
    assert images.dtype == np.uint8 and images.shape[1:] == (channels, height, width), (images.dtype, images.shape)
    tensors: dict[str, IntegerArray] = {INPUT: np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
    for op in graph.ops:
        tensors[op.name] = run_op(op, tensors, graph.tensors)
    return tensors


def run_op(op: Op, values: Mapping[str, IntegerArray], types: Mapping[str, TensorType]) -> IntegerArray:
    """Return what ``op`` writes, (N, H, W, C), given the ``values`` and ``types`` of the tensors by name."""
    inputs = [values[name] for name in op.inputs]
    dtype = types[op.name].dtype
    match op:
        case Conv2d() | DepthwiseConv2d():
            sums = convolution_sums(op, inputs[0], types[op.inputs[0]])
            return requantise(sums, op.multiplier, op.shift, dtype)
        case MaxPool2d():
            return np.asarray(windows(inputs[0], op.window, op.window).max(axis=(-2, -1)))
        case AveragePool2d():
            sums = windows(inputs[0], op.window, op.window).sum(axis=(-2, -1), dtype=np.int32)
            return requantise(sums, op.multiplier, op.shift, dtype)
        case Add():
            sums = np.zeros(inputs[0].shape, np.int32)
            for value, multiplier in zip(inputs, op.multiplier, strict=True):
                sums += value * np.int32(multiplier)
            return requantise(sums, 1, op.shift, dtype)
        case _:
            assert_never(op)


def convolution_sums(
    op: Convolution,
    x: UInt8Array,  # (N, H, W, I)
    input_type: TensorType,
) -> npt.NDArray[np.int32]:  # (N, H', W', O)
    """Return the sums of a convolution, bias included, before requantisation."""
    low, high = sum_bounds(op, input_type)
    exact: npt.DTypeLike = np.float32 if max(-low.min(), high.max()) < 2**24 else np.float64
    sums = convolve(x, op.weights.astype(exact), op.stride, op.padding)
    return sums.astype(np.int32) + op.bias
