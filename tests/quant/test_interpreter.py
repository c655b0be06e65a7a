"""The interpreter against its arithmetic written out element by element in Python's unbounded integers."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.quant import interpreter, windows
from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, MaxPool2d, TensorType
from sparse_mcu.quant.interpreter import convolution_sums, run, run_tensors
from sparse_mcu.quant.random_graph import random_graph, random_images

seeds = st.integers(0, 2**32 - 1)


def slow_tensors(graph, image):
    """All tensors of one image (C, H, W) as {name: {(y, x, c): int}}; asserts that no sum leaves int32."""
    values = {INPUT: {(y, x, c): int(v) for (y, x, c), v in np.ndenumerate(image.transpose(1, 2, 0))}}
    for op in graph.ops:
        out = graph.tensors[op.name]
        values[op.name] = {
            position: slow_element(op, graph, values, position) for position in product(*(range(extent) for extent in out.shape))
        }
    return values


def slow_element(op, graph, values, position):
    y, x, c = position
    dtype = graph.tensors[op.name].dtype
    source = values[op.inputs[0]]
    match op:
        case Conv2d():
            taps = ((ky, kx, i, int(op.weights[c, ky, kx, i])) for _, ky, kx, i in np.ndindex(1, *op.weights.shape[1:]))
            return slow_requantise(slow_sum(op, source, y, x, c, taps), int(op.multiplier[c]), int(op.shift[c]), dtype)
        case DepthwiseConv2d():
            taps = ((ky, kx, c, int(op.weights[ky, kx, c])) for ky, kx in np.ndindex(*op.weights.shape[:2]))
            return slow_requantise(slow_sum(op, source, y, x, c, taps), int(op.multiplier[c]), int(op.shift[c]), dtype)
        case MaxPool2d():
            return max(slow_window(op, source, position))
        case AveragePool2d():
            return slow_requantise(sum(slow_window(op, source, position)), op.multiplier, op.shift, dtype)
        case Add():
            total = sum(values[name][position] * m for name, m in zip(op.inputs, op.multiplier, strict=True))
            return slow_requantise(total, 1, op.shift, dtype)


def slow_sum(op, source, y, x, c, taps):
    total = int(op.bias[c])
    for ky, kx, i, weight in taps:
        at = (y * op.stride[0] + ky - op.padding[0], x * op.stride[1] + kx - op.padding[1], i)
        total += source.get(at, 0) * weight  # outside the map lies padding: zeros
        assert -(2**31) <= total < 2**31
    return total


def slow_window(op, source, position):
    y, x, c = position
    height, width = op.window
    return [source[y * height + dy, x * width + dx, c] for dy in range(height) for dx in range(width)]


def slow_requantise(total, multiplier, shift, dtype):
    scaled = total * multiplier + (2**shift) // 2
    assert -(2**31) <= scaled < 2**31
    low, high = {"uint8": (0, 255), "int16": (-32768, 32767)}[dtype]
    return min(max(scaled // 2**shift, low), high)


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_equals_the_arithmetic_written_out(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    images = random_images(rng, graph, 2)
    fast = run_tensors(graph, images)
    for index, image in enumerate(images):
        for name, elements in slow_tensors(graph, image).items():
            expected = np.array(list(elements.values())).reshape(graph.tensors[name].shape)
            np.testing.assert_array_equal(fast[name][index], expected, err_msg=name)
            assert fast[name].dtype == graph.tensors[name].dtype


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_chunks_do_not_change_the_logits(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    images = random_images(rng, graph, 7)
    whole = run_tensors(graph, images)[graph.output][:, 0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "CHUNK_BYTES", 1)
        patch.setattr(windows, "CHUNK_BYTES", 1)
        np.testing.assert_array_equal(run(graph, images), whole)


@pytest.mark.parametrize("taps", [8, 512, 4096, 40_000])
def test_sums_beyond_the_integers_of_float32_are_exact(taps):
    rng = np.random.default_rng(taps)
    weights = rng.integers(100, 128, (3, 1, taps, 1)).astype(np.int8)
    weights[1] *= -1
    unset = np.zeros(3, np.int32)
    op = Conv2d("conv", (INPUT,), weights, np.array([1, 2, 3], np.int32), unset, unset)
    x = rng.integers(200, 256, (5, 1, taps, 1)).astype(np.uint8)
    expected = x[:, 0, :, 0].astype(np.int64) @ weights[:, 0, :, 0].astype(np.int64).T + op.bias
    sums = convolution_sums(op, x, TensorType((1, taps, 1), "uint8", 1.0))
    np.testing.assert_array_equal(sums[:, 0, 0], expected)


def test_no_images_give_no_logits():
    graph = random_graph(np.random.default_rng(0))
    height, width, channels = graph.tensors[INPUT].shape
    assert run(graph, np.zeros((0, channels, height, width), np.uint8)).shape == (0, graph.classes)
