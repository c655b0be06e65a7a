"""Weights as the bytes that lie in flash: per layer all, or the non-zero ones with gaps or a bitmap; of 8 bits, 4 or 2.

A convolution is O output channels of T taps each (in the order of a window: KH, KW, I), KH rows of taps. Its heads are the bias,
the multiplier and the shift of each channel, in as many bytes as the core's C takes. Its weights are

    pairs        two channels at a time, tap by tap; zeros join the last channel of an odd number
    words        two channels at a time, row by row, four taps of one and four of the other; zeros fill up rows and channels
    channels     channel by channel, tap by tap
    gaps         for each channel and each row: how many pairs follow (1 byte), then per pair the gaps of its two weights (1 byte:
                 how many taps each lies behind the one before; low half first) and the weights. Zeros stand in where a gap
                 exceeds 15 or the number of weights is odd
    bitmap       for eight taps at a time, of all rows and channels without a break: which weights are not zero (1 byte, a bit
                 each, lowest first), then these. Zeros fill up the last byte of bits
    nibbles      channel by channel, row by row, two taps in a byte (low half first); a zero fills up a row
    nibble_gaps  for each channel and each row: how many weights follow (1 byte), then per weight a byte: its gap in the low half,
                 itself in the high one. A zero stands in where a gap exceeds 15
    nibble_bitmap  as bitmap, two such weights in a byte (low half first), where the first would lie alone; 0 fills up the last
    crumbs       channel by channel, row by row, four taps in a byte (lowest bits first); zeros fill up a row
    crumb_gaps   for each channel and each row: how many bytes follow (1 byte), then two weights in a byte, low half first: how
                 far each lies behind the one before it (the first: behind the place before the row) in three bits, and
                 whether it is -1 in the fourth. A half of 0 goes on by 7 without a weight, where a distance exceeds 7 or the
                 number is odd
    depthwise    channel by channel, tap by tap
    unrolled     nothing: the weights that are not zero are operands in the layer's own code (unroll.py)

Of pairs, words and channels a core reads the one that suits its registers (boards.toml calls it dense). A nibble is the two's
complement of 4 bits, so encodings of nibbles hold only layers whose weights are all in -8..7. A crumb is that of 2 bits,
but never -2: both encodings of crumbs hold only layers whose weights are all -1, 0 or 1, which takes no multiplication.
"""

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparse_mcu.quant.fixedpoint import sum_bounds
from sparse_mcu.quant.graph import Conv2d, Convolution, DepthwiseConv2d, Int8Array, IntegerGraph

Encoding = Literal[
    "pairs",
    "words",
    "channels",
    "gaps",
    "bitmap",
    "nibbles",
    "nibble_gaps",
    "nibble_bitmap",
    "crumbs",
    "crumb_gaps",
    "depthwise",
    "unrolled",
]
DENSE: tuple[Encoding, ...] = ("pairs", "words", "channels")
NIBBLES: tuple[Encoding, ...] = ("nibbles", "nibble_gaps", "nibble_bitmap")
CRUMBS: tuple[Encoding, ...] = ("crumbs", "crumb_gaps")
FEW_BITS = (*NIBBLES, *CRUMBS)  # encodings that hold only small weights
GAPS: tuple[Encoding, ...] = ("gaps", "nibble_gaps", "crumb_gaps")
BITMAPS: tuple[Encoding, ...] = ("bitmap", "nibble_bitmap")
ON_ANY_CORE: tuple[Encoding, ...] = ("gaps", "bitmap", *FEW_BITS)  # besides one of DENSE
WITHOUT_BITMAPS = tuple(encoding for encoding in ON_ANY_CORE if encoding not in BITMAPS)
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
    found = [_by_encoding(op, code_bytes, head_bytes) for op in ops]
    code = np.array([*code_bytes.values(), 0])  # of a depthwise convolution there is no choice
    names = [*code_bytes, "depthwise"]
    sizes = np.array([[held[name].size if name in held else math.inf for name in names] for held in found])
    chosen = _fewest_bytes(sizes, code)
    return {op.name: held[names[index]] for op, held, index in zip(ops, found, chosen, strict=True)}


def _by_encoding(op: Convolution, encodings: Collection[Encoding], head_bytes: int) -> dict[str, EncodedWeights]:
    """Return ``op`` in each of the ``encodings`` that can hold it, by name."""
    own: tuple[Encoding, ...] = ("depthwise",)
    found = (encode(op, (encoding,), head_bytes) for encoding in (encodings if isinstance(op, Conv2d) else own))
    return {weights.encoding: weights for weights in found if weights is not None}


def _fewest_bytes(
    sizes: npt.NDArray[np.float64],  # (L, E) of every layer in every encoding, inf where it cannot be
    code: npt.NDArray[np.int64],  # (E,)
) -> list[int]:
    """Return the encoding of every layer: its smallest of a set, of all sets the one that takes least with its kernels."""
    able = np.flatnonzero(np.isfinite(sizes).any(axis=0))
    sets = np.array(list(itertools.product((True, False), repeat=len(able))))  # (S, A)
    within = np.where(sets[:, None], sizes[:, able], math.inf)  # (S, L, A)
    chosen = within.argmin(axis=2)
    used = (chosen[..., None] == np.arange(len(able))).any(axis=1)
    best = (within.min(axis=2).sum(axis=1) + used @ code[able]).argmin()
    indices: list[int] = able[chosen[best]].tolist()
    return indices


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


def _bitmap(op: Conv2d) -> tuple[bytes, ...]:
    return _with_bits(op, _kept(op), per_byte=1)


def _nibbles(op: Conv2d) -> tuple[bytes, ...] | None:
    return _packed(op, 4) if _fits(op, NIBBLE) else None


def _nibble_gaps(op: Conv2d) -> tuple[bytes, ...] | None:
    if not _fits(op, NIBBLE):
        return None
    return _counted([[_row_of_nibble_gaps(row) for row in channel] for channel in _window_rows(op)])


def _nibble_bitmap(op: Conv2d) -> tuple[bytes, ...] | None:
    if not _fits(op, NIBBLE):
        return None
    kept = _kept(op) & 15
    low, high = np.pad(kept, (0, len(kept) % 2)).reshape(-1, 2).T
    return _with_bits(op, low | high << 4, per_byte=2)


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


def _kept(op: Conv2d) -> npt.NDArray[np.uint8]:
    """The weights of ``op`` that are not zero, as bytes."""
    kept: npt.NDArray[np.uint8] = op.weights[op.weights != 0].view(np.uint8)
    return kept


def _with_bits(op: Conv2d, values: npt.NDArray[np.uint8], per_byte: int) -> tuple[bytes, ...]:
    """The bits of all taps of ``op``, each byte of them before the first of ``values`` that one of its taps begins."""
    kept = op.weights.reshape(-1) != 0
    bits = np.packbits(kept, bitorder="little")
    begun = np.flatnonzero(kept)[::per_byte]
    return (np.insert(values, np.searchsorted(begun, np.arange(len(bits)) * 8), bits).tobytes(),)


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
    "bitmap": _bitmap,
    "nibbles": _nibbles,
    "nibble_gaps": _nibble_gaps,
    "nibble_bitmap": _nibble_bitmap,
    "crumbs": _crumbs,
    "crumb_gaps": _crumb_gaps,
}
