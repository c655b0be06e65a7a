"""Weights as the bytes that lie in flash: per layer the smaller of dense int8 and bitmaps with the non-zero values.

A convolution is O rows, one per output channel, of T taps each (in the order of a window: KH, KW, I). The bytes of
a row are its bias (``bias_bytes``, little endian, signed), its multiplier (1), its shift (1) and its weights:

    dense    T bytes
    bitmap   for every eight taps a byte whose lowest bit stands for the first of them, then the weights whose bit is set
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparse_mcu.quant.graph import Convolution, DepthwiseConv2d, Int8Array

Encoding = Literal["dense", "bitmap"]
ENCODINGS: tuple[Encoding, ...] = ("dense", "bitmap")  # the first wins a tie: it is the faster one


@dataclass(frozen=True, slots=True)
class EncodedWeights:
    """The stream of a convolution's rows, as kernels.c reads it."""

    encoding: Encoding
    taps: int
    rows: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes in flash."""
        return sum(map(len, self.rows))


def encode_network(
    ops: Iterable[Convolution],
    bias_bytes: int,  # one size for a network keeps its code small; it must hold every bias
    code_bytes: Mapping[Encoding, int],  # what the kernel that reads an encoding takes
) -> dict[str, EncodedWeights]:
    """Return the weights of ``ops`` by name in the fewest bytes, those of the kernels included.

    A second encoding brings a second kernel, so it must save more than that over all layers.
    """
    choices: list[tuple[Encoding, ...]] = [ENCODINGS, *((encoding,) for encoding in ENCODINGS)]
    networks = [{op.name: encode(op, encodings, bias_bytes) for op in ops} for encodings in choices]
    return min(networks, key=lambda network: _network_bytes(network.values(), code_bytes))


def _network_bytes(network: Collection[EncodedWeights], code_bytes: Mapping[Encoding, int]) -> int:
    used = {weights.encoding for weights in network}
    return sum(weights.size for weights in network) + sum(code_bytes[encoding] for encoding in used)


def encode(op: Convolution, encodings: Iterable[Encoding], bias_bytes: int) -> EncodedWeights:
    """Return the smallest of the ``encodings`` of ``op``, the first if several are."""
    weights = rows(op)
    heads = [
        int(bias).to_bytes(bias_bytes, "little", signed=True) + bytes([multiplier, shift])
        for bias, multiplier, shift in zip(op.bias, op.multiplier, op.shift, strict=True)
    ]
    bodies = {"dense": [row.tobytes() for row in weights], "bitmap": [_bitmap(row) for row in weights]}
    best = min(encodings, key=lambda encoding: sum(map(len, bodies[encoding])))
    return EncodedWeights(best, weights.shape[1], tuple(map(bytes.__add__, heads, bodies[best])))


def rows(op: Convolution) -> Int8Array:
    """Return the weights of ``op`` as (O, T), a row of taps for each output channel."""
    if isinstance(op, DepthwiseConv2d):
        return np.ascontiguousarray(op.weights.reshape(-1, op.weights.shape[2]).T)
    return op.weights.reshape(len(op.weights), -1)


def bias_bytes(ops: Iterable[Convolution]) -> int:
    """Return how many bytes (2, 3 or 4) hold every bias of ``ops``."""
    return max((_signed_bytes(bias) for op in ops for bias in (op.bias.min(), op.bias.max())), default=2)


def _signed_bytes(value: int) -> int:
    return next(size for size in (2, 3, 4) if -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1)


def _bitmap(row: Int8Array) -> bytes:
    """The bitmap of a row of weights; a last group of fewer than eight taps is filled up with zeros."""
    groups = np.pad(row, (0, -len(row) % 8)).reshape(-1, 8)
    bits = np.packbits(groups != 0, axis=1, bitorder="little")  # (groups, 1)
    table = np.hstack([bits.view(np.int8), groups])
    kept: Int8Array = table[np.hstack([np.full(bits.shape, True), groups != 0])]
    return kept.tobytes()
