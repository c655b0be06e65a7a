"""Weights as the bytes that lie in flash: per layer all, or the non-zero ones with the gaps between them; of 8 bits, 4 or 2.

A convolution is O output channels of T taps each (in the order of a window: KH, KW, I), KH rows of taps. Its heads are the bias,
the multiplier and the shift of each channel, in as many bytes as the core's C takes. Its weights are

    pairs        two channels at a time, tap by tap; zeros join the last channel of an odd number
    words        two channels at a time, row by row, four taps of one and four of the other; zeros fill up rows and channels
    channels     channel by channel, tap by tap
    gaps         for each channel and each row: how many pairs follow (1 byte), then per pair the gaps of its two weights (1 byte:
                 how many taps each lies behind the one before; low half first) and the weights. Zeros stand in where a gap
                 exceeds 15 or the number of weights is odd
    nibbles      channel by channel, row by row, two taps in a byte (low half first); a zero fills up a row
    nibble_gaps  for each channel and each row: how many weights follow (1 byte), then per weight a byte: its gap in the low half,
                 itself in the high one. A zero stands in where a gap exceeds 15
    crumbs       channel by channel, row by row, four taps in a byte (lowest bits first); zeros fill up a row
    crumb_gaps   for each channel and each row: how many bytes follow (1 byte), then two weights in a byte, low half first: how
                 far each lies behind the one before it (the first: behind the place before the row) in three bits, and
                 whether it is -1 in the fourth. A half of 0 goes on by 7 without a weight, where a distance exceeds 7 or the
                 number is odd
    depthwise    channel by channel, tap by tap
    unrolled     nothing: the weights that are not zero are operands in the layer's own code (unroll.py)

Of pairs, words and channels a core reads the one that suits its registers (boards.toml calls it dense). A nibble is the two's
complement of 4 bits, so both encodings of nibbles hold only layers whose weights are all in -8..7. A crumb is that of 2 bits,
but never -2: both encodings of crumbs hold only layers whose weights are all -1, 0 or 1, which takes no multiplication.
"""

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparse_mcu.quant.fixedpoint import sum_bounds
from sparse_mcu.quant.graph import Conv2d, Convolution, DepthwiseConv2d, Int8Array, IntegerGraph

Encoding = Literal[
    "pairs", "words", "channels", "gaps", "nibbles", "nibble_gaps", "crumbs", "crumb_gaps", "depthwise", "unrolled"
]
DENSE: tuple[Encoding, ...] = ("pairs", "words", "channels")
NIBBLES: tuple[Encoding, ...] = ("nibbles", "nibble_gaps")
CRUMBS: tuple[Encoding, ...] = ("crumbs", "crumb_gaps")
FEW_BITS = (*NIBBLES, *CRUMBS)  # encodings that hold only small weights
GAPS: tuple[Encoding, ...] = ("gaps", "nibble_gaps", "crumb_gaps")
WORD_TAPS = 4  # of words
NIBBLE = (-8, 7)  # the least and the largest
CRUMB = (-1, 1)
MAX_GAP = 15
MAX_STEP = 7  # of crumb_gaps
MAX_COUNT = 255  # of pairs, weights or bytes in a row


@dataclass(frozen=True, slots=True)
class EncodedWeights:
    """What a convolution has in flash, as kernels.c reads it."""

    encoding: Encoding
    lines: tuple[bytes, ...]  # the weights, in parts that are easy to read
    heads: tuple[tuple[int, int, int], ...]  # bias, multiplier and shift of each channel
    head_bytes: int

    @property
    def size(self) -> int:
        """Bytes in flash."""
        return sum(map(len, self.lines)) + self.head_bytes * len(self.heads)


def encode_network(
    ops: Collection[Convolution],
    head_bytes: int,
    code_bytes: Mapping[Encoding, int],  # of a Conv2d; what the kernel that reads it takes; the first wins a tie
) -> dict[str, EncodedWeights]:
    """Return the weights of ``ops`` by name in the fewest bytes, those of the kernels included.

    Every further encoding brings a kernel, so it must save more than that over all layers.
    """
    found = {op.name: _by_encoding(op, code_bytes, head_bytes) for op in ops}
    sizes = range(len(code_bytes), 0, -1)
    choices = itertools.chain.from_iterable(itertools.combinations(code_bytes, size) for size in sizes)
    networks = [_smallest(found, encodings) for encodings in choices]
    return min(filter(None, networks), key=lambda network: _network_bytes(network.values(), code_bytes))


def _by_encoding(op: Convolution, encodings: Collection[Encoding], head_bytes: int) -> dict[Encoding, EncodedWeights]:
    """Return ``op`` in each of the ``encodings`` that can hold it."""
    found = {encoding: encode(op, (encoding,), head_bytes) for encoding in encodings}
    return {encoding: weights for encoding, weights in found.items() if weights is not None}


def _smallest(
    found: Mapping[str, Mapping[Encoding, EncodedWeights]], encodings: tuple[Encoding, ...]
) -> dict[str, EncodedWeights] | None:
    """Return the smallest of the ``encodings`` for each layer, None where none of them can hold one."""
    network: dict[str, EncodedWeights] = {}
    for name, held in found.items():
        known = [held[encoding] for encoding in encodings if encoding in held]
        if not known:
            return None
        network[name] = min(known, key=lambda weights: weights.size)
    return network


def _network_bytes(network: Collection[EncodedWeights], code_bytes: Mapping[Encoding, int]) -> int:
    used = {weights.encoding for weights in network} - {"depthwise"}  # that has no choice
    return sum(weights.size for weights in network) + sum(code_bytes[encoding] for encoding in used)


def encode(op: Convolution, encodings: Collection[Encoding], head_bytes: int) -> EncodedWeights | None:
    """Return the smallest of the ``encodings`` that can hold ``op``, the first if several are; None if none can."""
    heads = tuple(zip(op.bias.tolist(), op.multiplier.tolist(), op.shift.tolist(), strict=True))
    if "unrolled" in encodings:
        return EncodedWeights("unrolled", (), heads, head_bytes)
    if isinstance(op, DepthwiseConv2d):
        return EncodedWeights("depthwise", tuple(row.tobytes() for row in rows(op)), heads, head_bytes)
    found = [
        EncodedWeights(encoding, lines, heads, head_bytes)
        for encoding in encodings
        if (lines := _LINES[encoding](op)) is not None
    ]
    return min(found, key=lambda weights: weights.size, default=None)


def rows(op: Convolution) -> Int8Array:
    """Return the weights of ``op`` as (O, T), a row of taps for each output channel."""
    if isinstance(op, DepthwiseConv2d):
        return np.ascontiguousarray(op.weights.reshape(-1, op.weights.shape[2]).T)
    return op.weights.reshape(len(op.weights), -1)


def sum_bytes(graph: IntegerGraph) -> int:
    """Return 3 if every sum of every convolution of ``graph`` fits 24 bits, whatever the input; else 4."""
    bounds = [sum_bounds(op, graph.tensors[op.inputs[0]]) for op in graph.ops if isinstance(op, Convolution)]
    return 3 if all(low.min() >= -(1 << 23) and high.max() < 1 << 23 for low, high in bounds) else 4


def _pairs(op: Conv2d) -> tuple[bytes, ...]:
    table = rows(op)
    pairs = np.pad(table, ((0, len(table) % 2), (0, 0))).reshape(-1, 2, table.shape[1])
    return tuple(pair.T.tobytes() for pair in pairs)


def _words(op: Conv2d) -> tuple[bytes, ...]:
    table = _window_rows(op)
    channels, height, _ = table.shape
    padded = np.pad(table, ((0, channels % 2), (0, 0), (0, -table.shape[2] % WORD_TAPS)))
    words = padded.reshape(-1, 2, height, padded.shape[2] // WORD_TAPS, WORD_TAPS).transpose(0, 2, 3, 1, 4)
    return tuple(pair.tobytes() for pair in words)


def _channels(op: Conv2d) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in rows(op))


def _gaps(op: Conv2d) -> tuple[bytes, ...] | None:
    return _counted([[_row_of_gaps(row) for row in channel] for channel in _window_rows(op)])


def _nibbles(op: Conv2d) -> tuple[bytes, ...] | None:
    return _packed(op, 4) if _fits(op, NIBBLE) else None


def _nibble_gaps(op: Conv2d) -> tuple[bytes, ...] | None:
    if not _fits(op, NIBBLE):
        return None
    return _counted([[_row_of_nibble_gaps(row) for row in channel] for channel in _window_rows(op)])


def _crumbs(op: Conv2d) -> tuple[bytes, ...] | None:
    return _packed(op, 2) if _fits(op, CRUMB) else None


def _crumb_gaps(op: Conv2d) -> tuple[bytes, ...] | None:
    if not _fits(op, CRUMB):
        return None
    return _counted([[_row_of_crumb_gaps(row) for row in channel] for channel in _window_rows(op)])


def _fits(op: Conv2d, limits: tuple[int, int]) -> bool:
    """Whether no weight of ``op`` exceeds the ``limits``."""
    return bool(op.weights.min() >= limits[0] and op.weights.max() <= limits[1])


def _packed(op: Conv2d, bits: int) -> tuple[bytes, ...]:
    """The lowest ``bits`` of every weight, of each channel; rows of a window fill whole bytes."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    taps = _window_rows(op).astype(np.uint8) & (1 << bits) - 1
    taps = np.pad(taps, ((0, 0), (0, 0), (0, -taps.shape[2] % len(shifts))))
    packed = np.bitwise_or.reduce(taps.reshape(*taps.shape[:2], -1, len(shifts)) << shifts, axis=-1)
    return tuple(channel.tobytes() for channel in packed)


def _window_rows(op: Conv2d) -> Int8Array:
    """The weights as (O, KH, taps of a row)."""
    return op.weights.reshape(len(op.weights), op.kernel[0], -1)


def _counted(lines: list[list[list[int]]]) -> tuple[bytes, ...] | None:
    """Rows of each channel as bytes, None if the count that one begins with is not one."""
    if any(row[0] > MAX_COUNT for line in lines for row in line):
        return None
    return tuple(b"".join(bytes(row) for row in line) for line in lines)


def _row_of_gaps(row: Int8Array) -> list[int]:
    """The number of pairs, and the pairs."""
    entries = gap_entries(row)
    entries += [(0, 0)] * (len(entries) % 2)
    pairs = [entries[i] + entries[i + 1] for i in range(0, len(entries), 2)]
    return [
        len(pairs),
        *(byte for gap, weight, next_gap, next_weight in pairs for byte in (gap | next_gap << 4, weight, next_weight)),
    ]


def _row_of_nibble_gaps(row: Int8Array) -> list[int]:
    """The number of weights, and the weights."""
    entries = gap_entries(row)
    return [len(entries), *(gap | weight << 4 & 0xFF for gap, weight in entries)]


def _row_of_crumb_gaps(row: Int8Array) -> list[int]:
    """The number of bytes, and the bytes."""
    halves = crumb_gap_entries(row)
    halves += [0] * (len(halves) % 2)
    return [len(halves) // 2, *(low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True))]


def gap_entries(row: Int8Array) -> list[tuple[int, int]]:
    """Return (gap, weight as a byte) of what is stored of ``row``."""
    entries: list[tuple[int, int]] = []
    position = 0
    for tap in np.flatnonzero(row):
        gap = int(tap) - position
        while gap > MAX_GAP:
            entries.append((MAX_GAP, 0))
            gap -= MAX_GAP
        entries.append((gap, int(row[tap]) & 255))
        position = int(tap)
    return entries


def crumb_gap_entries(row: Int8Array) -> list[int]:
    """Return the halves of bytes that hold ``row``, but the one that fills up the last byte."""
    halves: list[int] = []
    position = -1
    for tap in np.flatnonzero(row):
        skips, rest = divmod(int(tap) - position - 1, MAX_STEP)
        halves += [0] * skips
        halves.append(rest + 1 | (8 if row[tap] < 0 else 0))
        position = int(tap)
    return halves


_LINES = {
    "pairs": _pairs,
    "words": _words,
    "channels": _channels,
    "gaps": _gaps,
    "nibbles": _nibbles,
    "nibble_gaps": _nibble_gaps,
    "crumbs": _crumbs,
    "crumb_gaps": _crumb_gaps,
}
