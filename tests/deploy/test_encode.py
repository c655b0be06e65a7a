import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.deploy.encode import ENCODINGS, EncodedWeights, Encoding, bias_bytes, encode
from sparse_mcu.quant.graph import Conv2d, DepthwiseConv2d


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


def decode(encoded: EncodedWeights, bias_size: int) -> tuple[list[int], list[int], list[int], list[list[int]]]:
    """Read the joined rows byte by byte, as a kernel does: biases, multipliers, shifts, weights."""
    stream = list(b"".join(encoded.rows))
    biases, multipliers, shifts, weights = [], [], [], []
    while stream:
        biases.append(int.from_bytes(bytes(stream[:bias_size]), "little", signed=True))
        multipliers.append(stream[bias_size])
        shifts.append(stream[bias_size + 1])
        del stream[: bias_size + 2]
        row: list[int] = []
        while len(row) < encoded.taps:
            if encoded.encoding == "dense":
                row.append(stream.pop(0))
                continue
            bits = stream.pop(0)
            row += [stream.pop(0) if bits >> tap & 1 else 0 for tap in range(8)]
        assert not any(row[encoded.taps :])
        weights.append([byte - 256 if byte > 127 else byte for byte in row[: encoded.taps]])
    return biases, multipliers, shifts, weights


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 5),
    taps=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    encoding=st.sampled_from(ENCODINGS),
)
def test_what_is_encoded_can_be_decoded(seed: int, outputs: int, taps: int, density: float, encoding: Encoding) -> None:
    op = convolution(np.random.default_rng(seed), outputs, taps, density)
    encoded = encode(op, [encoding], bias_bytes=2)
    biases, multipliers, shifts, weights = decode(encoded, 2)
    assert encoded.encoding == encoding
    assert (biases, multipliers, shifts) == (list(op.bias), list(op.multiplier), list(op.shift))
    assert weights == op.weights.reshape(outputs, taps).tolist()


def test_sizes_are_as_counted_by_hand() -> None:
    weights = np.zeros((2, 1, 1, 20), np.int8)
    weights[0, 0, 0, [0, 9, 19]] = 1, -2, 3
    one = np.ones(2, np.int32)
    op = Conv2d("conv", ("input",), weights, one, one, one)
    assert encode(op, ["dense"], 3).size == 2 * (3 + 2 + 20)
    assert encode(op, ["bitmap"], 3).size == 2 * (3 + 2 + 3) + 3
    assert encode(op, ["bitmap"], 3).rows[0] == bytes([1, 0, 0, 1, 1, 0b1, 1, 0b10, 256 - 2, 0b1000, 3])


@pytest.mark.parametrize(("density", "smallest"), [(0.0, "bitmap"), (0.2, "bitmap"), (1.0, "dense")])
def test_the_smallest_encoding_is_chosen(density: float, smallest: Encoding) -> None:
    op = convolution(np.random.default_rng(0), 4, 64, density)
    encoded = encode(op, ENCODINGS, 2)
    assert encoded.encoding == smallest
    assert encoded.size == min(encode(op, [encoding], 2).size for encoding in ENCODINGS)


def test_a_tie_goes_to_dense() -> None:
    op = convolution(np.random.default_rng(0), 1, 8, 1.0)
    weights = op.weights.copy()
    weights[:] = 5
    weights[0, 0, 0, 0] = 0
    tied = Conv2d("conv", ("input",), weights, op.bias, op.multiplier, op.shift)
    assert encode(tied, ["dense"], 2).size == encode(tied, ["bitmap"], 2).size
    assert encode(tied, ENCODINGS, 2).encoding == "dense"


def test_a_depthwise_row_holds_the_kernel_of_one_channel() -> None:
    weights = np.arange(1, 13, dtype=np.int8).reshape(2, 2, 3)
    one = np.ones(3, np.int32)
    encoded = encode(DepthwiseConv2d("depthwise", ("input",), weights, one, one, one), ["dense"], 2)
    assert encoded.taps == 4
    assert [list(row[4:]) for row in encoded.rows] == [[1, 4, 7, 10], [2, 5, 8, 11], [3, 6, 9, 12]]


@pytest.mark.parametrize(
    ("bias", "size"),
    [(0, 2), (32767, 2), (-32768, 2), (32768, 3), (-32769, 3), (2**23 - 1, 3), (-(2**23), 3), (2**23, 4), (-(2**31), 4)],
)
def test_biases_take_the_bytes_that_hold_the_largest(bias: int, size: int) -> None:
    op = convolution(np.random.default_rng(0), 3, 2, 1.0)
    op.bias[1] = bias
    assert bias_bytes([op]) == size
    assert decode(encode(op, ["dense"], size), size)[0] == list(op.bias)
