"""Convolutions as straight-line code for AVRs that multiply: a function in assembly for a whole layer, its outputs included.

The macros of c/kernels.c make a layer of commands. For every window:

    BIAS            begins the sum of a channel
    TAP, TIMES      load an input, and multiply it by the magnitude of a weight that some channels have there
    PLUS, MINUS     add that product to a channel's sum; PLUS2 and MINUS2 do where the sum's third byte is sure to stay as it is
    MORE, LESS      the same with the input itself
    LARGEST         keeps a sum for the max pool behind the convolution, if it is larger than what is there; never below zero
    PUT             brings a sum back to 8 bits: an output
    STORE           keeps a sum for a layer whose outputs have 16 bits, which ``requantise`` computes
    AHEAD, BACK     move the place that the offsets of TAP count from

and for every output of a max pool TAKE, which fetches what was kept and leaves zero there, and PUT. NEXT moves the place of sums.

What a sum can be decides on the instructions: bounds of a channel follow from its bias and its weights, with inputs of 0..255.
"""

import functools
from collections import Counter
from dataclasses import dataclass

from sparse_mcu.deploy.stages import Stage
from sparse_mcu.deploy.unroll import Block, Code, Form, Taps, offsets, taps_of
from sparse_mcu.quant.graph import Convolution, TensorType

INPUT = 255  # the largest
TWO_BYTES = 0xFFFF
SIGNED = (-0x8000, 0x7FFF)  # sums of two bytes, or from 0 to TWO_BYTES
SHIFTS = range(9, 25)  # that take no loop: the bit that rounds lies in the second byte of a product or above
PRODUCT_BITS = 32
REACH = 21  # sums from a place on
# Words of flash that the commands in PUT, LARGEST and of TAKE take, as c/kernels.c defines them.
WORDS = {
    "TAKE2": 4, "TAKE3": 6, "POSITIVE2": 2, "POSITIVE3": 2, "LARGER2": 7, "LARGER3": 10, "RELU2": 3, "RELU3": 3, "ZERO": 1,
    "SCALE2": 7, "SCALE3": 10, "LEFT2": 2, "LEFT3": 3, "RIGHT": 2, "CARRY2": 2, "CARRY3": 2, "ROUND2": 3, "ROUND3": 3, "LIMIT": 3,
    "MULTIPLY": 12, "SHIFT": 7, "HALF": 9, "LIMIT4": 5,
}  # fmt: skip
# Cycles by events, of commands that always take as many.
CYCLES = {
    "unrolled.block": 0.0,
    "unrolled.channel": 3.0,
    "unrolled.channel.three": 1.0,
    "unrolled.load": 2.0,
    "unrolled.times": 3.0,
    "unrolled.product": 2.0,
    "unrolled.product.carry": 1.0,
    "unrolled.move": 2.0,
    "unrolled.store": 6.0,
}


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
        short = SIGNED[0] <= self.low and self.high <= SIGNED[1] or self.low >= 0 and self.high <= TWO_BYTES
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


@functools.lru_cache(maxsize=64)  # trying out forms asks again and again
def layer(stage: Stage, form: Form, source: TensorType, output: TensorType) -> Layer:
    """Return the convolution of ``stage`` as straight-line code."""
    op = stage.op
    assert isinstance(op, Convolution)
    wide, channels = output.dtype == "int16", len(op.bias)
    blocks: list[Block] = []
    place = 0
    for first in range(0, channels, form.sums):
        count = min(form.sums, channels - first)
        taps = taps_of(op, source.shape[1] * source.shape[2], range(first, first + count))
        sums = [_sum(op, taps, first, channel, wide) for channel in range(count)]
        code, puts = Code(form, place), Code(form)
        code.lines += [[f"BIAS{one.size}({channel}, {one.bias})" for channel, one in enumerate(sums)]]
        code.parts += Counter({"block": 1, "channel": count, "channel.three": sum(one.size == 3 for one in sums)})
        for offset in sorted(taps):
            _tap(code, offset, taps[offset], sums)
        at = 0 if channels > REACH else first
        for channel, one in enumerate(sums):
            _finish(code, puts, one, channel, at + channel, stage.pool is not None)
        if channels > REACH:
            step = count if first + count < channels else -first
            for written in [code, puts] if stage.pool is not None else [code] if wide else []:
                written.lines.append([f"NEXT({step})"])
                written.parts["move"] += 1
        if first == 0:
            puts.parts += Counter({"layer.pool": int(stage.pool is not None), "layer.wide": int(wide)})
        place = code.place
        blocks.append(Block(count, _lines(code), (), code.parts, _lines(puts), puts.parts))
    return Layer(tuple(blocks), place)


def _lines(code: Code) -> tuple[str, ...]:
    return tuple(" ".join(line) for line in code.lines)


def _sum(op: Convolution, taps: Taps, first: int, channel: int, wide: bool) -> _Sum:
    bias = 0 if wide else int(op.bias[first + channel])  # requantise adds it
    weights = [found.get(channel, 0) for found in taps.values()]
    low, high = (bias + INPUT * sum(choose(0, weight) for weight in weights) for choose in (min, max))
    return _Sum(bias, low, high, int(op.multiplier[first + channel]), int(op.shift[first + channel]), wide)


def _tap(code: Code, offset: int, weights: dict[int, int], sums: list[_Sum]) -> None:
    """Write what adds the products of an input to the sums, those of one magnitude behind each other."""
    code.load("TAP", offset)
    last = 1
    for channel, weight in sorted(weights.items(), key=lambda item: abs(item[1])):
        if abs(weight) != last:
            last = abs(weight)
            code.lines[-1].append(f"TIMES({last})")
            code.parts["times"] += 1
        carries = sums[channel].carries(weight)
        name = ("PLUS" if weight > 0 else "MINUS") if last > 1 else "MORE" if weight > 0 else "LESS"
        code.lines[-1].append(f"{name}{'' if carries else '2'}({channel})")
        code.parts += Counter({"product": 1, "product.carry": int(carries)})


def _finish(code: Code, puts: Code, one: _Sum, channel: int, at: int, pooled: bool) -> None:
    """Write what becomes of a sum at the end of its window, and of what is kept of it in a pool at the end of that."""
    if one.wide:
        code.lines.append([f"STORE({channel}, {at})"])
        code.parts["store"] += 1
    elif pooled:
        _keep(code, one, channel, at)
        puts.lines.append([f"TAKE{one.kept}({at})"])
        puts.parts["put.word"] += WORDS[f"TAKE{one.kept}"]
        _put(puts.lines, puts.parts, one, 0, one.kept, relu=False)
    else:
        _put(code.lines, puts.parts, one, channel, one.size, relu=one.low < 0)


def _keep(code: Code, one: _Sum, channel: int, at: int) -> None:
    sign = one.low < 0
    commands = [*([f"POSITIVE{one.size}({channel})"] if sign else []), f"LARGER{one.kept}({channel}, {at})"]
    code.lines.append([f"LARGEST({channel}, {at},", *commands[:-1], commands[-1] + ")"])
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
    else:
        commands += [f"MULTIPLY({channel}, {one.multiplier})"]
        commands += [f"SHIFT({channel}, {shift - 1})"] if shift > 1 else []
        commands += [f"HALF({channel})"] if shift > 0 else []
        commands += [f"LIMIT4({channel})"]
        parts["put.slow"] += shift
    parts += Counter(
        {"put.relu" if relu else "put": 1, "put.word": sum(WORDS[command.partition("(")[0]] for command in commands)}
    )
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
    height, width, _ = output.shape
    pool_height, pool_width = stage.windows
    right, down, across, below = offsets(stage, source)
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
