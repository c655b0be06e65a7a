"""Layers as straight-line code: weights are operands of instructions, and zeros take neither flash nor time.

Of a convolution, the sums of some output channels stay in registers while the taps of a window go by (a block); then come the
next channels. A block is a list of commands that macros of c/kernels.c turn into instructions:

    TAP    loads an input            PLUS, MINUS  add a multiple of it to a channel's sum
    WORD   loads four, for cores     QUAD         adds multiples of all four
           with 16-bit products      EVEN, ODD    of the first and the third, of the second and the fourth
    AHEAD, BACK                      move the place that the offsets of TAP and WORD count from

The weights of QUAD, EVEN and ODD lie in a table, in the order of the commands: two in a word, as one instruction multiplies them.
For an AVR a layer has more commands (unroll_avr.py).
"""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.stages import Stage
from sparse_mcu.quant.graph import AveragePool2d, Convolution, DepthwiseConv2d, Op, TensorType

MAX_MEAN_TAPS = 16  # of an average
MAX_PRODUCTS = 8192  # of a layer: compilers take minutes for a function of many more
MAX_COUNT = 255  # rows and columns of an output: they are counted in 8 bits
TAPS = 4  # of a WORD

Taps = dict[int, dict[int, int]]  # offset in a window -> output channel -> weight


@dataclass(frozen=True, slots=True)
class Form:
    """What the registers and instructions allow that commands are written for; on any other core they are C."""

    name: str
    sums: int  # in registers
    reach: int  # offset of the farthest input that a load reaches
    move: int  # the farthest that AHEAD or BACK goes


_FORMS = {  # by the beginning of a core's name
    "avr": Form("AVR", 6, 63, 0xFFFF),
    "cortex-m0": Form("THUMB1", 5, 31, 255),
    "cortex-m3": Form("THUMB2", 6, 511, 4095),
    "cortex-m4": Form("DSP", 6, 511, 4095),
    "rv32": Form("RISCV", 6, 511, 2047),
}
_OTHER = Form("C", 5, 31, 255)
_SHORT = 32  # smaller weights are operands of shorter instructions on RISC-V


@dataclass(frozen=True, slots=True)
class Block:
    """Output channels that are summed up together."""

    channels: int
    commands: tuple[str, ...]  # a line for every load
    words: tuple[int, ...]  # of the table
    parts: Counter[str]  # what the code consists of
    puts: tuple[str, ...] = ()  # on an AVR: commands for each output of a pool, behind those for its windows
    put_parts: Counter[str] = field(default_factory=Counter)  # on an AVR: of what is done once for each output


def can_unroll(op: Op, board: Board, sum_bytes: int, tensors: Mapping[str, TensorType]) -> bool:
    """Whether ``op`` can be straight-line code: whole windows only, and what registers and loads of ``board`` are made for."""
    if isinstance(op, AveragePool2d):
        taps = math.prod(op.window)
        shifted = op.shift <= 8 and taps * 255 + (1 << op.shift >> 1) >> op.shift <= 255  # else it would have to be clamped
        return taps <= MAX_MEAN_TAPS and max(tensors[op.name].shape[:2]) <= MAX_COUNT and (op.multiplier != 1 or shifted)
    if not isinstance(op, Convolution) or max(tensors[op.name].shape[:2]) > MAX_COUNT:
        return False
    if np.count_nonzero(op.weights) > MAX_PRODUCTS:
        return False
    output = tensors[op.name]
    several = output.dtype == "int16" and math.prod(output.shape[:2]) > 1  # an AVR's code requantises 8 bits itself
    return not any(op.padding) and not (board.is_avr and (sum_bytes != 3 or several))


def form_name(board: Board) -> str:
    """Return what c/kernels.c calls the instructions that commands for ``board`` are written for, behind FOR_."""
    return form_of(board).name


def form_of(board: Board) -> Form:
    """Return what commands for ``board`` are written for."""
    return next((form for core, form in _FORMS.items() if board.core.startswith(core)), _OTHER)


def reads_words(board: Board) -> bool:
    """Whether straight-line code for ``board`` loads four inputs at a time."""
    return board.dense == "words"


@functools.lru_cache(maxsize=64)  # trying out forms asks again and again
def blocks(op: Convolution, board: Board, row_bytes: int) -> tuple[Block, ...]:
    """Return ``op`` as blocks; ``row_bytes`` are those of a row of its input."""
    form = form_of(board)
    channels = len(op.bias)
    found = []
    for first in range(0, channels, form.sums):
        count = min(form.sums, channels - first)
        taps = taps_of(op, row_bytes, range(first, first + count))
        code = Code(form)
        for offset in sorted(taps):
            if reads_words(board):
                code.word(offset, taps)
            else:
                code.tap(offset, taps[offset])
        if first + count < channels:
            code.go_to(0)
        parts = code.parts + Counter(block=1, channel=count)
        found.append(Block(count, tuple(" ".join(line) for line in code.lines), tuple(code.words), parts))
    return tuple(found)


def taps_of(op: Convolution, row_bytes: int, channels: range) -> Taps:
    """The weights of ``channels`` that are not zero, channels counted from the first of them."""
    taps: Taps = {}
    for channel in channels:
        if isinstance(op, DepthwiseConv2d):
            weights, pixel, first = op.weights[:, :, channel : channel + 1], op.weights.shape[2], channel
        else:
            weights, pixel, first = op.weights[channel], op.weights.shape[3], 0
        for row, column, source in zip(*weights.nonzero(), strict=True):
            offset = int(row) * row_bytes + int(column) * pixel + int(source) + first
            taps.setdefault(offset, {})[channel - channels.start] = int(weights[row, column, source])
    return taps


class Code:
    """A block while it is written."""

    def __init__(self, form: Form, place: int = 0) -> None:
        self.form = form
        self.place = place  # where offsets count from
        self.covered = 0  # by words: offsets below
        self.lines: list[list[str]] = []
        self.words: list[int] = []
        self.parts: Counter[str] = Counter()

    def tap(self, offset: int, weights: Mapping[int, int]) -> None:
        """Load the input at ``offset`` and add its products with the weights of the channels."""
        self.load("TAP", offset)
        self.parts["product"] += len(weights)
        self.parts["product.long"] += sum(abs(weight) >= _SHORT for weight in weights.values())
        self.lines[-1] += [
            f"{'PLUS' if weight > 0 else 'MINUS'}({channel}, {abs(weight)})" for channel, weight in weights.items()
        ]

    def word(self, offset: int, taps: Taps) -> None:
        """Do the same for the four inputs from ``offset`` on, unless a word before holds it already."""
        if offset < self.covered:
            return
        self.load("WORD", offset)
        self.covered = offset + TAPS
        found = [taps.get(offset + tap, {}) for tap in range(TAPS)]
        for channel in sorted(set().union(*found)):
            weights = [tap.get(channel, 0) for tap in found]
            even, odd = weights[::2], weights[1::2]
            name, kept = ("QUAD", (even, odd)) if any(even) and any(odd) else ("EVEN", (even,)) if any(even) else ("ODD", (odd,))
            self.parts["quad" if name == "QUAD" else "half"] += 1
            self.words += [low & 0xFFFF | (high & 0xFFFF) << 16 for low, high in kept]
            self.lines[-1].append(f"{name}({', '.join(map(str, [channel, *(weights if name == 'QUAD' else kept[0])]))})")

    def go_to(self, place: int) -> None:
        """Let offsets count from ``place``."""
        command, rest = ("AHEAD", place - self.place) if place > self.place else ("BACK", self.place - place)
        while rest > 0:
            self.lines.append([f"{command}({min(rest, self.form.move)})"])
            self.parts["move"] += 1
            rest -= self.form.move
        self.place = place

    def load(self, command: str, offset: int) -> None:
        """Begin a line with the ``command`` that loads from ``offset``."""
        if not 0 <= offset - self.place <= self.form.reach:
            self.go_to(offset)
        self.lines.append([f"{command}({offset - self.place})"])
        self.parts["load"] += 1


def convolution(stage: Stage, name: str, source: TensorType, output: TensorType) -> str:
    """Return the body of the function for a convolution: the loops over its windows."""
    _, width, _ = output.shape
    pool_height, pool_width = stage.windows
    right, down, across, below = offsets(stage, source)
    ways = (right, down - pool_width * right, across - pool_height * down, below - width * across)
    numbers = (*output.shape, int(output.dtype == "int16"), pool_height, pool_width, *ways)
    return f"CONVOLVE(unrolled_{name}, heads_{name}, {', '.join(map(str, numbers))})"


def offsets(stage: Stage, source: TensorType) -> tuple[int, int, int, int]:
    """Return how many bytes of the input lie from a window to the next one right and down, and from an output to those."""
    op = stage.op
    assert isinstance(op, Convolution)
    _, in_width, pixel = source.shape
    pool_height, pool_width = stage.windows
    right, down = op.stride[1] * pixel, op.stride[0] * in_width * pixel
    return right, down, pool_width * right, pool_height * down


def loops(stage: Stage, output: TensorType) -> int:
    """Return how many of its loops turn more than once: a compiler leaves the others out."""
    return sum(count > 1 for count in (*output.shape[:2], *stage.windows))


def mean_kernel(op: AveragePool2d) -> str:
    """Return the section of c/kernels.c that an average as straight-line code needs."""
    return "mean" if op.multiplier == 1 else "scaled_mean"


def mean_parts(op: AveragePool2d, source: TensorType, output: TensorType) -> Counter[str]:
    """Count what its code consists of."""
    offsets = _mean_offsets(op, source)
    far = sum(offset > _FORMS["avr"].reach for offset in offsets)
    return Counter(
        {mean_kernel(op): 1, "mean.tap": len(offsets), "mean.far": far, "mean.loop": sum(count > 1 for count in output.shape)}
    )


def _mean_offsets(op: AveragePool2d, source: TensorType) -> list[int]:
    height, width = op.window
    _, in_width, channels = source.shape
    return [(row * in_width + column) * channels for row in range(height) for column in range(width)]


def means(op: AveragePool2d, source: TensorType, output: TensorType) -> str:
    """Return the body of the function for a pool of ``source``: its sums are written down tap by tap."""
    height, width = op.window
    _, in_width, channels = source.shape
    rows, columns, _ = output.shape
    next_window, next_row = (width - 1) * channels, (in_width * height - columns * width) * channels
    total = " + ".join(f"in[{offset}]" for offset in _mean_offsets(op, source))
    mean = (
        f"MEAN({total}, {op.shift})" if op.multiplier == 1 else f"scaled_mean((uint16_t)({total}), {op.multiplier}, {op.shift})"
    )
    return f"MEANS({rows}, {columns}, {channels}, {next_window}, {next_row}, {mean})"
