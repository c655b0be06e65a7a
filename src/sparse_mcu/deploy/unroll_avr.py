"""Convolutions as straight-line code for AVRs that multiply: a function in assembly for a whole layer, its outputs included.

The macros of c/kernels.c make a layer of commands. For every window:

    BIAS             begins the sum of a channel
    TAP, PLUS, ...   add up products (unroll.py); of a sum that is still sure to leave its third byte as it is, PLUS2 and MINUS2
    LARGEST          keeps a sum for the max pool behind the convolution, if it is larger than what is there; never below zero
    PUT              brings a sum back to 8 bits: an output
    STORE            keeps a sum for a layer whose outputs have 16 bits, which ``requantise`` computes

and for every output of a max pool TAKE, which fetches what was kept and leaves zero there, and PUT. NEXT moves the place of sums.

What a sum can be decides on the instructions: bounds of a channel follow from its bias and its weights, with inputs of 0..255.
"""

import functools
from collections import Counter
from dataclasses import dataclass

from sparse_mcu.deploy.stages import Stage
from sparse_mcu.deploy.unroll import Block, Code, Form, taps_of
from sparse_mcu.quant.graph import Convolution, TensorType

INPUT = 255  # the largest
TWO_BYTES = 0xFFFF
SIGNED = (-0x8000, 0x7FFF)  # sums of two bytes, or from 0 to TWO_BYTES
SHIFTS = range(9, 25)  # that take no loop: the bit that rounds lies in the second byte of a product or above
PRODUCT_BITS = 32
REACH = 21  # sums from a place on


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as blocks, and how far behind the begin of a window the last of them leaves the place of the input."""

    blocks: tuple[Block, ...]
    place: int


@dataclass(slots=True)
class _Sum:
    """What the sum of a channel can be: at the end, and in its two lower bytes so far while the third is as at first."""

    bias: int
    low: int
    high: int
    multiplier: int
    shift: int
    wide: bool
    least: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self.least = self.most = self.bias & TWO_BYTES

    @property
    def size(self) -> int:
        """Bytes of the sum."""
        short = SIGNED[0] <= self.low and self.high <= SIGNED[1] or 0 <= self.low and self.high <= TWO_BYTES
        return 2 if short and not self.wide else 3

    @property
    def kept(self) -> int:
        """Bytes of the sum where it is not negative."""
        return 2 if self.high <= TWO_BYTES else 3

    def carries(self, weight: int) -> bool:
        """Whether adding a product with ``weight`` can change the third byte; products are added in the order of the calls."""
        self.least += min(0, weight * INPUT)
        self.most += max(0, weight * INPUT)
        return self.size == 3 and not (self.least >= 0 and self.most <= TWO_BYTES)


@functools.lru_cache(maxsize=64)
def layer(stage: Stage, form: Form, source: TensorType, output: TensorType) -> Layer:
    """Return the convolution of ``stage`` as straight-line code."""
    op = stage.op
    assert isinstance(op, Convolution)
    pooled, wide, channels = stage.pool is not None, output.dtype == "int16", len(op.bias)
    row_bytes = source.shape[1] * source.shape[2]
    found: list[Block] = []
    place, far = 0, channels > REACH
    for first in range(0, channels, form.sums):
        count = min(form.sums, channels - first)
        taps = taps_of(op, row_bytes, range(first, first + count))
        sums = [_sum(op, first + channel, [weights.get(channel, 0) for weights in taps.values()], wide) for channel in range(count)]
        code = Code(form, place)
        code.lines += [[f"BIAS{one.size}({channel}, {one.bias})" for channel, one in enumerate(sums)]]
        code.parts += Counter({"block": 1, "channel": count, "channel.three": sum(one.size == 3 for one in sums)})
        for offset in sorted(taps):
            carried = {channel: sums[channel].carries(weight) for channel, weight in taps[offset].items()}
            code.tap(offset, taps[offset], carried)
        place = code.place
        puts = Code(form)
        for channel, one in enumerate(sums):
            at = channel if far else first + channel
            if wide:
                code.lines += [[f"STORE({channel}, {at})"]]
                code.parts["store"] += 1
            elif pooled:
                _keep(code, one, channel, at)
                puts.lines += [[f"TAKE{one.kept}({at})"]]
                puts.parts += Counter({"take": 1, "take.three": int(one.kept == 3)})
                _put(puts.lines, puts.parts, one, 0, one.kept, relu=False)
            else:
                _put(code.lines, puts.parts, one, channel, one.size, relu=one.low < 0)
        if far and (pooled or wide):
            step = count if first + count < channels else -first
            for written in (code, puts) if pooled else (code,):
                written.lines += [[f"NEXT({step})"]]
                written.parts["move"] += 1
        found.append(Block(count, _lines(code), (), code.parts, _lines(puts), puts.parts))
    return Layer(tuple(found), place)


def _lines(code: Code) -> tuple[str, ...]:
    return tuple(" ".join(line) for line in code.lines)


def _sum(op: Convolution, channel: int, weights: list[int], wide: bool) -> _Sum:
    bias = 0 if wide else int(op.bias[channel])
    low, high = (bias + INPUT * sum(choose(0, weight) for weight in weights) for choose in (min, max))
    return _Sum(bias, low, high, int(op.multiplier[channel]), int(op.shift[channel]), wide)


def _keep(code: Code, one: _Sum, channel: int, at: int) -> None:
    sign = one.low < 0
    commands = [*([f"POSITIVE{one.size}({channel})"] if sign else []), f"LARGER{one.kept}({channel}, {at})"]
    code.lines += [[f"LARGEST({channel}, {at},", *commands[:-1], commands[-1] + ")"]]
    code.parts += Counter({f"larger{'.sign' if sign else ''}": 1, "larger.three": int(one.kept == 3)})


def _put(lines: list[list[str]], parts: Counter[str], one: _Sum, channel: int, size: int, relu: bool) -> None:
    """Write the command that requantises a sum of so many bytes; with ``relu`` one that can be below zero."""
    most, shift = max(0, one.high), one.shift
    half = 1 << shift >> 1
    limited = most * one.multiplier + half >> shift > INPUT
    left, right = max(0, 16 - shift), max(0, shift - 16)
    fast = shift in SHIFTS and most * one.multiplier << left < 1 << PRODUCT_BITS
    size = min(size, one.kept)
    commands = [f"RELU{one.size}({channel})"] if relu else []
    bytes_ = 3 if limited or right else 2  # of what is shifted
    if size == 2 and (bytes_ == 3 or not fast):
        commands.append(f"ZERO({channel})")
    if fast:
        commands.append(f"SCALE{size}({channel}, {one.multiplier})")
        commands += [f"LEFT{bytes_}({channel})"] * left + [f"RIGHT({channel})"] * right
        commands += [f"{'CARRY' if right else 'ROUND'}{3 if limited else 2}({channel})"]
        commands += [f"LIMIT({channel})"] if limited else []
        parts += Counter({"put.limit": int(limited), "put.bit": left + right, "put.three": int(size == 3)})
    else:
        commands += [f"MULTIPLY({channel}, {one.multiplier})"]
        commands += [f"SHIFT({channel}, {shift - 1})"] if shift > 1 else []
        commands += [f"HALF({channel})"] if shift > 0 else []
        commands += [f"LIMIT4({channel})"]
        parts += Counter({"put.slow": 1, "put.slow.bit": shift})
    parts += Counter({f"put{'.relu' if relu else ''}": 1})
    lines.append([f"PUT({channel}, {one.multiplier}, {shift},", *commands[:-1], commands[-1] + ")"])


def body(stage: Stage, name: str, form: Form, source: TensorType, output: TensorType) -> list[str]:
    """Return the lines of the function for a convolution, but for commands in lines of their own."""
    op = stage.op
    assert isinstance(op, Convolution)
    found = layer(stage, form, source, output)
    channels = len(op.bias)
    right, down, across, below = ways(stage, source, output, found.place)
    kept = 0 if stage.pool is None else channels
    numbers = ", ".join(map(str, (*output.shape[:2], *stage.windows, kept)))
    windows = [f"    {line}" for block in found.blocks for line in block.commands]
    puts = [f"    {line}" for block in found.blocks for line in block.puts]
    lines = [f"LAYER({numbers},", *windows, f"    , {right}, {down},", *puts, f"    , {across}, {below})"]
    if output.dtype == "int16":
        lines.append(f"requantise(out, sums, heads_{name}, {channels}, 1);")
    return lines


def ways(stage: Stage, source: TensorType, output: TensorType, place: int) -> list[str]:
    """Return the moves at the end of the loops, from the inside out: right, down, across, below; a loop of one round has none."""
    op = stage.op
    assert isinstance(op, Convolution)
    _, in_width, pixel = source.shape
    height, width, _ = output.shape
    pool_height, pool_width = stage.windows
    right, down = op.stride[1] * pixel, op.stride[0] * in_width * pixel
    across, below = pool_width * right, pool_height * down
    levels = (
        (pool_width, right - place),
        (pool_height, down - pool_width * right),
        (width, across - pool_height * down),
        (height, below - width * across),
    )
    moves, rest = [], 0
    for count, way in levels:
        rest += way
        moves.append("" if count == 1 or rest == 0 else f"AHEAD({rest})" if rest > 0 else f"BACK({-rest})")
        rest = rest if count == 1 else 0
    return moves
