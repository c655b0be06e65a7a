import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.encode import ENCODINGS, EncodedWeights, Encoding, encode, sum_bytes
from sparse_mcu.quant.graph import Conv2d, DepthwiseConv2d, IntegerGraph, TensorType


def convolution(rng: np.random.Generator, outputs: int, taps: int, density: float, largest_bias: int = 1000) -> Conv2d:
    weights = rng.integers(-127, 128, (outputs, 1, 1, taps)) * (rng.random((outputs, 1, 1, taps)) < density)
    return Conv2d(
        "conv",
        ("input",),
        weights.astype(np.int8),
        rng.integers(-largest_bias, largest_bias, outputs, dtype=np.int32, endpoint=True),
        rng.integers(1, 256, outputs, dtype=np.int32),
        rng.integers(0, 32, outputs, dtype=np.int32),
    )


def heads(encoded: EncodedWeights, sum_size: int) -> tuple[list[int], list[int], list[int]]:
    """Biases, multipliers and shifts, as a kernel reads them."""
    assert all(len(head) == sum_size + 2 for head in encoded.heads)
    biases = [int.from_bytes(head[:sum_size], "little", signed=True) for head in encoded.heads]
    return biases, [head[sum_size] for head in encoded.heads], [head[sum_size + 1] for head in encoded.heads]


def decode(encoded: EncodedWeights, kernel_rows: int, row_taps: int) -> list[list[int]]:
    """Read the weights byte by byte, as a kernel does: the taps of every channel."""
    stream = list(b"".join(encoded.lines))
    channels = len(encoded.heads)
    if encoded.encoding == "dense":
        taps = kernel_rows * row_taps
        pairs = [stream[first : first + 2 * taps] for first in range(0, len(stream), 2 * taps)]
        table = [pair[which::2] for pair in pairs for which in (0, 1)]
        assert not any(sum(table[channels:], []))
    else:
        table = [sum((decode_row(stream, row_taps) for _ in range(kernel_rows)), []) for _ in range(channels)]
        assert not stream
    return [[byte - 256 if byte > 127 else byte for byte in row] for row in table[:channels]]


def decode_row(stream: list[int], row_taps: int) -> list[int]:
    row, tap = [0] * row_taps, 0
    for _ in range(stream.pop(0)):
        gaps, *weights = (stream.pop(0) for _ in range(3))
        for gap, weight in zip((gaps & 15, gaps >> 4), weights, strict=True):
            tap += gap
            row[tap] += weight  # a second weight of one tap is the zero that fills up a pair
    return row


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40)),
    density=st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0]),
    encoding=st.sampled_from(ENCODINGS),
)
def test_what_is_encoded_can_be_decoded(
    seed: int, outputs: int, shape: tuple[int, int], density: float, encoding: Encoding
) -> None:
    op = convolution(np.random.default_rng(seed), outputs, math.prod(shape), density)
    op = dataclasses.replace(op, weights=op.weights.reshape(outputs, shape[0], 1, shape[1]))
    encoded = encode(op, [encoding], sum_bytes=3)
    assert encoded.encoding == encoding
    assert heads(encoded, 3) == (list(op.bias), list(op.multiplier), list(op.shift))
    assert decode(encoded, *shape) == op.weights.reshape(outputs, -1).tolist()


def test_sizes_and_bytes_are_as_counted_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 20), np.int8)
    weights[0, 0, 0, [0, 3, 19]] = 1, -2, 3
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    assert encode(op, ["dense"], 3).size == 2 * (3 + 2 + 20)
    # 16 taps lie from the second weight to the third: more than a gap can say, so a zero goes between.
    sparse = encode(op, ["gaps"], 4)
    assert sparse.lines == (bytes([2, 0 | 3 << 4, 1, 256 - 2, 15 | 1 << 4, 0, 3]), bytes([0]))
    assert sparse.heads[0] == bytes([1, 0, 0, 0, 1, 1])
    assert sparse.size == 7 + 1 + 2 * 6


def test_rows_with_more_weights_than_can_be_counted_stay_dense() -> None:
    one = np.ones(1, np.int32)
    for taps, encoding in ((510, "gaps"), (511, "dense")):
        op = Conv2d("conv", ("input",), np.ones((1, 1, 1, taps), np.int8), one, one, one)
        assert encode(op, ["gaps"], 3).encoding == encoding


@pytest.mark.parametrize(("density", "smallest"), [(0.0, "gaps"), (0.2, "gaps"), (1.0, "dense")])
def test_the_smallest_encoding_is_chosen(density: float, smallest: Encoding) -> None:
    op = convolution(np.random.default_rng(0), 4, 64, density)
    encoded = encode(op, ENCODINGS, 3)
    assert encoded.encoding == smallest
    assert encoded.size == min(encode(op, [encoding], 3).size for encoding in ENCODINGS)


def test_a_tie_goes_to_dense() -> None:
    weights = np.zeros((2, 1, 1, 4), np.int8)
    weights[0, 0, 0, :4] = 1  # 1 + 2 * 3 bytes with gaps, and 1 for the empty row: as many as 2 * 4
    one = np.ones(2, np.int32)
    tied = Conv2d("conv", ("input",), weights, one, one, one)
    assert encode(tied, ["dense"], 3).size == encode(tied, ["gaps"], 3).size
    assert encode(tied, ENCODINGS, 3).encoding == "dense"


def test_a_depthwise_line_holds_the_kernel_of_one_channel() -> None:
    weights = np.arange(1, 13, dtype=np.int8).reshape(2, 2, 3)
    one = np.ones(3, np.int32)
    encoded = encode(DepthwiseConv2d("depthwise", ("input",), weights, one, one, one), ["dense"], 3)
    assert encoded.encoding == "depthwise"
    assert [list(line) for line in encoded.lines] == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]


@pytest.mark.parametrize(
    ("bias", "weight", "size"),
    [
        (0, 1, 3),
        (2**23 - 1 - 255, 1, 3),
        (2**23 - 255, 1, 4),
        (-(2**23) + 255, -1, 3),
        (-(2**23) + 254, -1, 4),
        (2**23 - 1, -1, 3),
        (2**31 - 1 - 255, 1, 4),
    ],
)
def test_sums_take_the_bytes_that_hold_every_one_of_them(bias: int, weight: int, size: int) -> None:
    op = convolution(np.random.default_rng(0), 3, 2, 1.0)
    op.weights[:] = 0
    op.weights[1, 0, 0, 0] = weight
    op.bias[1] = bias
    graph = IntegerGraph((op,), {"input": TensorType((1, 1, 2), "uint8", 1.0), "conv": TensorType((1, 1, 3), "int16", 1.0)})
    assert sum_bytes(graph) == size
    assert heads(encode(op, ["dense"], size), size)[0] == list(op.bias)
