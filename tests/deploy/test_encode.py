import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.encode import (
    BITMAPS,
    CRUMB,
    CRUMBS,
    DENSE,
    FEW_BITS,
    NIBBLE,
    NIBBLES,
    ON_ANY_CORE,
    WORD_TAPS,
    EncodedWeights,
    Encoding,
    encode,
    encode_network,
    rows,
    sum_bytes,
)
from sparse_mcu.quant.graph import Conv2d, DepthwiseConv2d, IntegerGraph, TensorType

BYTE = (-127, 127)  # the least and the largest weight of a whole byte


def limits(encoding: Encoding) -> tuple[int, int]:
    return NIBBLE if encoding in NIBBLES else CRUMB if encoding in CRUMBS else BYTE


def convolution(
    rng: np.random.Generator,
    outputs: int,
    taps: int,
    density: float,
    largest_bias: int = 1000,
    between: tuple[int, int] = BYTE,
) -> Conv2d:
    weights = rng.integers(*between, (outputs, 1, 1, taps), endpoint=True)
    weights *= rng.random(weights.shape) < density
    return Conv2d(
        "conv",
        ("input",),
        weights.astype(np.int8),
        rng.integers(-largest_bias, largest_bias, outputs, dtype=np.int32, endpoint=True),
        rng.integers(1, 256, outputs, dtype=np.int32),
        rng.integers(0, 32, outputs, dtype=np.int32),
    )


def decode(encoded: EncodedWeights, kernel_rows: int, row_taps: int) -> list[list[int]]:
    """Read the weights byte by byte, as a kernel does: the taps of every channel."""
    stream = list(b"".join(encoded.lines))
    channels = len(encoded.heads)
    taps = kernel_rows * row_taps
    if encoded.encoding == "pairs":
        pairs = [stream[first : first + 2 * taps] for first in range(0, len(stream), 2 * taps)]
        table = [pair[which::2] for pair in pairs for which in (0, 1)]
        assert not any(sum(table[channels:], []))
    elif encoded.encoding == "words":
        table = [decode_words(stream, which, kernel_rows, row_taps) for which in range(channels + channels % 2)]
        assert not any(sum(table[channels:], []))
    elif encoded.encoding == "channels":
        table = [stream[first : first + taps] for first in range(0, len(stream), taps)]
    elif encoded.encoding in BITMAPS:
        table = decode_bitmap(stream, channels, taps, halves=encoded.encoding == "nibble_bitmap")
    else:
        decode_row = {
            "gaps": decode_gaps,
            "nibbles": decode_nibbles,
            "nibble_gaps": decode_nibble_gaps,
            "crumbs": decode_crumbs,
            "crumb_gaps": decode_crumb_gaps,
        }[encoded.encoding]
        table = [sum((decode_row(stream, row_taps) for _ in range(kernel_rows)), []) for _ in range(channels)]
        assert not stream
    return [[byte - 256 if byte > 127 else byte for byte in row] for row in table[:channels]]


def decode_words(stream: list[int], channel: int, kernel_rows: int, row_taps: int) -> list[int]:
    """The taps of a channel; those that fill up a row must be zero."""
    words = -(-row_taps // WORD_TAPS)
    taps = []
    for row in range(kernel_rows):
        begin = ((channel // 2 * kernel_rows + row) * words * 2 + channel % 2) * WORD_TAPS
        filled = [stream[begin + 2 * WORD_TAPS * (tap // WORD_TAPS) + tap % WORD_TAPS] for tap in range(words * WORD_TAPS)]
        assert not any(filled[row_taps:])
        taps += filled[:row_taps]
    return taps


def decode_gaps(stream: list[int], row_taps: int) -> list[int]:
    row, tap = [0] * row_taps, 0
    for _ in range(stream.pop(0)):
        gaps, *weights = (stream.pop(0) for _ in range(3))
        for gap, weight in zip((gaps & 15, gaps >> 4), weights, strict=True):
            tap += gap
            row[tap] += weight  # a second weight of one tap is the zero that fills up a pair
    return row


def decode_nibbles(stream: list[int], row_taps: int) -> list[int]:
    """The taps of a row; what fills up its last byte must be zero."""
    both = [stream.pop(0) for _ in range(-(-row_taps // 2))]
    halves = [signed(half) for byte in both for half in (byte & 15, byte >> 4)]
    assert not any(halves[row_taps:])
    return halves[:row_taps]


def decode_nibble_gaps(stream: list[int], row_taps: int) -> list[int]:
    row, tap = [0] * row_taps, 0
    for _ in range(stream.pop(0)):
        both = stream.pop(0)
        tap += both & 15
        row[tap] = signed(both >> 4)
    return row


def signed(nibble: int) -> int:
    """Four bits in two's complement, as the byte of the same value."""
    return nibble if nibble < 8 else nibble + 240


def decode_crumbs(stream: list[int], row_taps: int) -> list[int]:
    """The taps of a row; what fills up its last byte must be zero."""
    four = [stream.pop(0) for _ in range(-(-row_taps // 4))]
    weights = [{0: 0, 1: 1, 3: 255}[byte >> shift & 3] for byte in four for shift in (0, 2, 4, 6)]
    assert not any(weights[row_taps:])
    return weights[:row_taps]


def decode_crumb_gaps(stream: list[int], row_taps: int) -> list[int]:
    row, tap = [0] * row_taps, -1
    for half in [half for byte in [stream.pop(0) for _ in range(stream.pop(0))] for half in (byte & 15, byte >> 4)]:
        tap += half & 7 or 7
        if half & 7:
            row[tap] = 255 if half & 8 else 1
    return row


def decode_bitmap(stream: list[int], channels: int, taps: int, halves: bool) -> list[list[int]]:
    """The taps of all channels; bits of taps behind the last one must be zero."""
    weights, left, pending = [], 0, None
    for tap in range(channels * taps):
        if tap % 8 == 0:
            left = stream.pop(0)
        if left & 1 == 0:
            weights.append(0)
        elif not halves:
            weights.append(stream.pop(0))
        elif pending is None:
            both = stream.pop(0)
            pending = signed(both >> 4)
            weights.append(signed(both & 15))
        else:
            weights.append(pending)
            pending = None
        left >>= 1
    assert left == 0 and not stream and not pending
    return [weights[first : first + taps] for first in range(0, len(weights), taps)]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40)),
    density=st.sampled_from([0.0, 0.03, 0.1, 0.5, 1.0]),
    encoding=st.sampled_from([*DENSE, *ON_ANY_CORE]),
)
def test_what_is_encoded_can_be_decoded(
    seed: int, outputs: int, shape: tuple[int, int], density: float, encoding: Encoding
) -> None:
    rng = np.random.default_rng(seed)
    op = convolution(rng, outputs, math.prod(shape), density, between=limits(encoding))
    op = dataclasses.replace(op, weights=op.weights.reshape(outputs, shape[0], 1, shape[1]))
    encoded = encode(op, [encoding], head_bytes=5)
    assert encoded is not None and encoded.encoding == encoding
    assert encoded.heads == tuple(zip(op.bias, op.multiplier, op.shift, strict=True))
    assert decode(encoded, *shape) == op.weights.reshape(outputs, -1).tolist()


def test_sizes_and_bytes_are_as_counted_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 20), np.int8)
    weights[0, 0, 0, [0, 3, 19]] = 1, -2, 3
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    assert size(op, "pairs", 5) == size(op, "channels", 5) == 2 * (5 + 20)
    assert size(op, "words", 8) == 2 * (8 + 20)
    # 16 taps lie from the second weight to the third: more than a gap can say, so a zero goes between.
    sparse = encode(op, ["gaps"], 6)
    assert sparse is not None
    assert sparse.lines == (bytes([2, 0 | 3 << 4, 1, 256 - 2, 15 | 1 << 4, 0, 3]), bytes([0]))
    assert sparse.size == 7 + 1 + 2 * 6


def test_nibbles_are_as_written_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 21), np.int8)
    weights[0, 0, 0, [0, 3, 19]] = 1, -2, 7
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    dense, sparse = encode(op, ["nibbles"], 6), encode(op, ["nibble_gaps"], 6)
    assert dense is not None and sparse is not None
    assert dense.lines == (bytes([1, 14 << 4, 0, 0, 0, 0, 0, 0, 0, 7 << 4, 0]), bytes(11))
    # A zero goes between the second weight and the third, as in pairs; three need no fourth.
    assert sparse.lines == (bytes([4, 0 | 1 << 4, 3 | 14 << 4, 15 | 0 << 4, 1 | 7 << 4]), bytes([0]))
    assert (dense.size, sparse.size) == (2 * (6 + 11), 5 + 1 + 2 * 6)


def test_crumbs_are_as_written_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 21), np.int8)
    weights[0, 0, 0, [0, 3, 18]] = 1, -1, 1
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    dense, sparse = encode(op, ["crumbs"], 6), encode(op, ["crumb_gaps"], 6)
    assert dense is not None and sparse is not None
    assert dense.lines == (bytes([1 | 3 << 6, 0, 0, 0, 1 << 4, 0]), bytes(6))
    # The third weight lies 15 taps behind the second: two halves without a weight go on by seven each. A third fills up a byte.
    assert sparse.lines == (bytes([3, 1 | (3 | 8) << 4, 0 | 0 << 4, 1 | 0 << 4]), bytes([0]))
    assert (dense.size, sparse.size) == (2 * (6 + 6), 4 + 1 + 2 * 6)


def test_bitmaps_are_as_written_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 11), np.int8)
    weights[0, 0, 0, [0, 3, 10]] = 1, -2, 3
    weights[1, 0, 0, 1] = -8
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    whole, halves = encode(op, ["bitmap"], 6), encode(op, ["nibble_bitmap"], 6)
    assert whole is not None and halves is not None
    # Taps 8 to 15 are the last three of the first channel and five of the second; two bits of the third byte are of no tap.
    assert whole.lines == (bytes([1 | 1 << 3, 1, 254, 1 << 2 | 1 << 4, 3, 248, 0]),)
    assert halves.lines == (bytes([1 | 1 << 3, 1 | 14 << 4, 1 << 2 | 1 << 4, 3 | 8 << 4, 0]),)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 9),
    taps=st.integers(1, 50),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_bitmaps_take_a_bit_of_every_tap_and_the_weights_that_are_not_zero(
    seed: int, outputs: int, taps: int, density: float
) -> None:
    op = convolution(np.random.default_rng(seed), outputs, taps, density, between=NIBBLE)
    bits, kept = math.ceil(outputs * taps / 8), np.count_nonzero(op.weights)
    assert size(op, "bitmap", 0) == bits + kept
    assert size(op, "nibble_bitmap", 0) == bits + math.ceil(kept / 2)


@pytest.mark.parametrize("encoding", FEW_BITS)
def test_few_bits_hold_what_fits_them(encoding: Encoding) -> None:
    least, largest = limits(encoding)
    op = convolution(np.random.default_rng(0), 3, 10, 0.0)
    for weight, held in ((least - 1, False), (least, True), (largest, True), (largest + 1, False)):
        op.weights[1, 0, 0, 4] = weight
        assert (encode(op, [encoding], 5) is not None) == held


def size(op: Conv2d, encoding: Encoding, head_bytes: int = 5) -> int:
    encoded = encode(op, [encoding], head_bytes)
    assert encoded is not None
    return encoded.size


def test_rows_with_more_weights_than_can_be_counted_stay_dense() -> None:
    one = np.ones(1, np.int32)
    for taps, held in ((510, True), (511, False)):
        op = Conv2d("conv", ("input",), np.ones((1, 1, 1, taps), np.int8), one, one, one)
        assert (encode(op, ["gaps"], 5) is not None) == held
        network = encode_network([op], 5, {"pairs": 10_000, "gaps": 0})
        assert network["conv"].encoding == ("gaps" if held else "pairs")


@pytest.mark.parametrize(("encoding", "most"), [("nibble_gaps", 255), ("crumb_gaps", 510)])
def test_rows_of_more_small_weights_than_can_be_counted_are_not_stored_with_gaps(encoding: Encoding, most: int) -> None:
    one = np.ones(1, np.int32)
    for taps, held in ((most, True), (most + 1, False)):
        op = Conv2d("conv", ("input",), np.ones((1, 1, 1, taps), np.int8), one, one, one)
        assert (encode(op, [encoding], 5) is not None) == held


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    densities=st.lists(st.sampled_from([0.1, 0.5, 1.0]), min_size=1, max_size=4),
    code=st.lists(st.integers(0, 500), min_size=1 + len(ON_ANY_CORE), max_size=1 + len(ON_ANY_CORE)),
)
def test_a_network_takes_the_fewest_bytes_of_all_its_encodings(seed: int, densities: list[float], code: list[int]) -> None:
    """Against every way to encode every layer, with each kernel counted once."""
    rng = np.random.default_rng(seed)
    code_bytes: dict[Encoding, int] = dict(zip(("pairs", *ON_ANY_CORE), code, strict=True))
    ops = [convolution(rng, 4, 60, density, between=(BYTE, NIBBLE, CRUMB)[rng.integers(3)]) for density in densities]
    ops = [dataclasses.replace(op, name=f"conv{number}") for number, op in enumerate(ops)]
    ways = [[found for name in code_bytes if (found := encode(op, (name,), 5)) is not None] for op in ops]
    least = min(total(network, code_bytes) for network in itertools.product(*ways))
    assert total(tuple(encode_network(ops, 5, code_bytes).values()), code_bytes) == least


def total(network: tuple[EncodedWeights, ...], code_bytes: dict[Encoding, int]) -> int:
    return sum(weights.size for weights in network) + sum(code_bytes[name] for name in {weights.encoding for weights in network})


@pytest.mark.parametrize(
    ("between", "density", "smallest"),
    [
        (NIBBLE, 0.0, "gaps"),
        (NIBBLE, 0.1, "nibble_gaps"),
        (NIBBLE, 0.4, "nibble_bitmap"),
        (NIBBLE, 0.7, "nibble_bitmap"),
        (NIBBLE, 1.0, "nibbles"),
        (CRUMB, 0.1, "crumb_gaps"),
        (CRUMB, 0.5, "crumb_gaps"),  # a third of these weights is zero besides
        (CRUMB, 1.0, "crumbs"),
    ],
)
def test_small_weights_are_stored_with_gaps_or_a_bitmap_where_enough_are_zero(
    between: tuple[int, int], density: float, smallest: Encoding
) -> None:
    op = convolution(np.random.default_rng(0), 4, 64, density, between=between)
    encoded = encode(op, ["channels", *ON_ANY_CORE], 5)
    assert encoded is not None and encoded.encoding == smallest


@pytest.mark.parametrize(
    ("density", "smallest"), [(0.0, "gaps"), (0.1, "gaps"), (0.4, "bitmap"), (0.8, "bitmap"), (1.0, "channels")]
)
def test_the_smallest_encoding_is_chosen(density: float, smallest: Encoding) -> None:
    op = convolution(np.random.default_rng(0), 4, 64, density)
    encoded = encode(op, ["channels", "gaps", "bitmap"], 5)
    assert encoded is not None and encoded.encoding == smallest
    assert encoded.size == min(size(op, "channels"), size(op, "gaps"), size(op, "bitmap"))


def test_a_tie_goes_to_the_first() -> None:
    weights = np.zeros((2, 1, 1, 4), np.int8)
    weights[0, 0, 0, :4] = 1  # 1 + 2 * 3 bytes with gaps, and 1 for the empty row: as many as 2 * 4
    one = np.ones(2, np.int32)
    tied = Conv2d("conv", ("input",), weights, one, one, one)
    assert size(tied, "pairs") == size(tied, "gaps")
    first = encode(tied, ["pairs", "gaps"], 5)
    assert first is not None and first.encoding == "pairs"


def test_rows_of_words_are_filled_up() -> None:
    op = convolution(np.random.default_rng(0), 3, 10, 1.0)
    op = dataclasses.replace(op, weights=op.weights.reshape(3, 2, 1, 5))
    assert size(op, "words", 8) == 3 * 8 + 4 * 2 * 8
    assert rows(op).shape == (3, 10)


def test_a_depthwise_line_holds_the_kernel_of_one_channel() -> None:
    weights = np.arange(1, 13, dtype=np.int8).reshape(2, 2, 3)
    one = np.ones(3, np.int32)
    encoded = encode(DepthwiseConv2d("depthwise", ("input",), weights, one, one, one), ["pairs"], 5)
    assert encoded is not None and encoded.encoding == "depthwise"
    assert [list(line) for line in encoded.lines] == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]


@pytest.mark.parametrize(
    ("bias", "weight", "expected"),
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
def test_sums_take_the_bytes_that_hold_every_one_of_them(bias: int, weight: int, expected: int) -> None:
    op = convolution(np.random.default_rng(0), 3, 2, 1.0)
    op.weights[:] = 0
    op.weights[1, 0, 0, 0] = weight
    op.bias[1] = bias
    graph = IntegerGraph((op,), {"input": TensorType((1, 1, 2), "uint8", 1.0), "conv": TensorType((1, 1, 3), "int16", 1.0)})
    assert sum_bytes(graph) == expected
