"""Flash, RAM and cycles of a network on a board, predicted without compiling anything.

The code of kernels and their stack are constants of a core, and so is the time of every event that their loops repeat: a window,
a tap, a weight that is zero (``events``). tools/measure_kernels.py measures them. Weights and descriptors are counted exactly.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.access import twice
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import WORD_TAPS, gap_entries
from sparse_mcu.deploy.kernel_costs import KernelCosts, kernel_costs
from sparse_mcu.deploy.program import Program, Step, check_constants, lower
from sparse_mcu.deploy.stream import streamable
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    TensorType,
)

Events = Counter[str]


@dataclass(frozen=True, slots=True)
class Part:
    """What one operation takes: its tables and its call in flash, and its time."""

    name: str
    flash_bytes: int
    cycles: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network on a board: ``parts`` by operation; what they share (kernels) makes up the rest of the flash."""

    flash_bytes: int
    least_flash_bytes: int  # of any network of the same layers with as many weights or more: other kernels may suit those better
    ram_bytes: int  # variables, the image included, and the deepest stack
    least_ram_bytes: int  # the same whatever the weights: kernels that skip zeros or do not differ in stack
    cycles: int  # of an inference
    parts: tuple[Part, ...]


def predict(graph: IntegerGraph, board: Board, ram_bytes: int | None = None) -> Prediction:
    """Return what ``graph`` takes on ``board``, as ``fitted`` makes it; raise BoardError if its core has not been measured."""
    costs = kernel_costs(board)
    program = fitted(graph, board, costs, ram_bytes)
    check_constants(program)
    return predict_program(program, costs)


def fitted(graph: IntegerGraph, board: Board, costs: KernelCosts, ram_bytes: int | None) -> Program:
    """Return the fastest program for ``graph`` within ``ram_bytes``, the RAM of ``board`` if None.

    It takes whole images if that fits, else rows. If nothing fits, it is the one that takes least RAM.
    """
    limit = board.ram_bytes if ram_bytes is None else ram_bytes
    whole = lower(graph, board, costs)
    if predict_program(whole, costs).ram_bytes <= limit:
        return whole
    chain = streamable(graph)
    programs = [whole, *(lower(graph, board, costs, lines=chain[:count]) for count in range(1, len(chain) + 1))]
    predictions = [predict_program(program, costs) for program in programs]
    fits = [choice for choice, found in enumerate(predictions) if found.ram_bytes <= limit]
    if fits:
        return programs[min(fits, key=lambda choice: predictions[choice].cycles)]
    return programs[min(range(len(programs)), key=lambda choice: predictions[choice].ram_bytes)]


def predict_program(program: Program, costs: KernelCosts) -> Prediction:
    """Return what ``program`` takes where kernels take ``costs``."""
    parts = tuple(_part(program, step, costs) for step in program.steps)
    streaming = sum(costs.streaming[event] * count for event, count in stream_events(program).items())
    either = (f"sums_{program.board.dense if program.paired else 'pairs'}", "sums_gaps")
    leaner = min(either, key=lambda kernel: costs.stack[program.variant(kernel)])
    return Prediction(
        flash_bytes=flash_bytes(program, costs),
        least_flash_bytes=flash_bytes(program, costs) - _spare_bytes(program, costs, set(either)),
        ram_bytes=program.variable_bytes + _stack_bytes(program, costs, {}),
        least_ram_bytes=program.variable_bytes + _stack_bytes(program, costs, dict.fromkeys(either, leaner)),
        cycles=round(costs.cycles["base"] + streaming) + sum(part.cycles for part in parts),
        parts=parts,
    )


def _stack_bytes(program: Program, costs: KernelCosts, instead: Mapping[str, str]) -> int:
    """The deepest stack if other kernels ran ``instead`` of some."""
    chain = max(
        costs.stack[program.variant(instead.get(step.kernels[-1], step.kernels[-1]))]
        + (round(costs.streaming["stack"]) if step.calls > 1 else 0)
        for step in program.steps
    )
    return chain + max(taken for steps, taken in costs.steps.items() if int(steps) <= len(program.steps))


def _part(program: Program, step: Step, costs: KernelCosts) -> Part:
    cycles = sum(costs.cycles[event] * count for event, count in events(program, step).items())
    return Part(step.stage.name, _step_bytes(program, step, costs), round(cycles))


def flash_bytes(program: Program, costs: KernelCosts) -> int:
    """Return the bytes of ``program`` in flash: its steps, kernels, and what the compiler links to them."""
    sections = [program.variant(section) for section in program.kernels if section != "stream"]
    helpers = {helper for section in sections for helper in costs.uses.get(section, ())}
    shared = sum(costs.code[section] for section in sections) + sum(costs.helpers[helper] for helper in helpers)
    lines = 0  # with what moves their rows
    if program.lines:
        lines = round(costs.streaming["code"] + costs.streaming["line"] * (len(program.lines) + 1))
    return costs.base_bytes + shared + lines + sum(_step_bytes(program, step, costs) for step in program.steps)


def _spare_bytes(program: Program, costs: KernelCosts, either: set[str]) -> int:
    """How much less code there may be if sums have another size, and weights another of the two kernels: as the one is now."""
    other = replace(program, sum_bytes=3 if program.sum_bytes == 4 else 4)

    def spare(section: str) -> int:
        code = costs.code[program.variant(section)]
        return max(0, code - costs.code.get(other.variant(section), code))

    sections = set(program.kernels) - {"stream"}
    chosen = max(map(spare, either)) if sections & either else 0
    # Weights are encoded for the least code of kernels, without what the compiler links to them.
    helpers = {helper for kernel in sections & either for helper in costs.uses.get(program.variant(kernel), ())}
    return chosen + sum(map(spare, sections - either)) + sum(costs.helpers[helper] for helper in helpers)


def _step_bytes(program: Program, step: Step, costs: KernelCosts) -> int:
    """Bytes of the call, the descriptor and the weights of a step."""
    call = costs.call[step.kernels[0]]
    if step.weights is not None:
        return call + costs.structs["conv.padded" if program.padded else "conv"] + step.weights.size
    operands = len(step.stage.op.inputs) * costs.structs["operand"] if isinstance(step.stage.op, Add) else 0
    return call + costs.structs[step.struct] + operands


def stream_events(program: Program) -> Events:
    """Count what happens to the rows that pass the lines of ``program``, besides the layers: rows that come, bytes that move."""
    found: Events = Counter()
    tensors = program.graph.tensors
    for line in program.lines:
        shape = tensors[line.tensor].shape
        row_bytes = math.prod(shape[1:])
        found["row"] += line.height + line.below
        found["row.zero"] += (line.above + line.below) * row_bytes
        found["row.kept"] += line.outputs * (line.rows - line.step) * row_bytes
    if program.lines:
        found["row"] += program.lines[-1].outputs
        found["push"] = program.lines[0].height
    return found


def events(program: Program, step: Step) -> Events:
    """Count what the kernels of ``step`` repeat in an inference.

    Data that decide a branch (a maximum, a clamp, a ReLU) are not looked at.
    """
    return Counter({event: count * step.calls for event, count in _call_events(program, step).items()})


def _call_events(program: Program, step: Step) -> Events:
    op, tensors = step.stage.op, step.tensors
    output = tensors[step.stage.name]
    elements = math.prod(output.shape)
    match op:
        case Add():
            return _add_events(op, output, [tensors[name] for name in op.inputs])
        case MaxPool2d():
            return _pool_events("max", op.window, output)
        case AveragePool2d():
            multiplied = Counter({"average.multiplied": elements if op.multiplier != 1 else 0})
            return _pool_events("average", op.window, output) + multiplied + _shifts(np.full(elements, op.shift))
        case Conv2d() | DepthwiseConv2d():
            return _conv_events(program, step, op)
        case _:
            assert_never(op)


def _conv_events(program: Program, step: Step, op: Convolution) -> Events:
    output = step.tensors[step.stage.name]
    windows = _windows(step, op, step.tensors[op.inputs[0]], output)
    places = math.prod(output.shape[:2])
    found = Counter({"convolve": 1, "convolve.row": output.shape[0], "convolve.output": places})
    found["window.padded" if program.padded else "window"] = windows.count
    found["clip"] = windows.lone if program.padded else 0
    found["odd"] = windows.odd
    found[f"requantise.{output.dtype}"] = math.prod(output.shape)
    if output.dtype == "int16":
        found += _shifts(np.repeat(op.shift, places))
    return found + _sum_events(program, step, op, windows)


@dataclass(frozen=True, slots=True)
class _Windows:
    """How a convolution sums up its windows: in pairs, an odd one as if it were two; and alone, or what lies inside of one."""

    count: int
    pairs: int  # the odd ones among them
    odd: int
    lone: int
    lone_rows: int  # of taps inside, over all lone windows
    lone_columns: int  # of those rows, together


def _windows(step: Step, op: Convolution, source: TensorType, output: TensorType) -> _Windows:
    windows = step.stage.windows
    inside = [_inside(op, axis, output.shape[axis] * windows[axis], source.shape[axis]) for axis in (0, 1)]
    paired = np.outer(inside[0] == op.kernel[0], inside[1] == op.kernel[1]) & bool(step.fields["paired"])
    rows = np.broadcast_to(inside[0][:, None], paired.shape)[~paired]
    columns = np.broadcast_to(inside[1], paired.shape)[~paired]
    if step.fields["paired"] and twice(step.stage, output):
        of_a_step = np.add.reduceat(paired.reshape(-1), np.arange(0, paired.size, 2), dtype=np.int64)
    else:
        of_a_step = paired.reshape(output.shape[0], windows[0], output.shape[1], windows[1]).sum(axis=(1, 3))
    odd = int((of_a_step % 2).sum())
    pairs = (int(paired.sum()) + odd) // 2
    return _Windows(paired.size, pairs, odd, rows.size, int(rows.sum()), int((rows * columns).sum()))


def _inside(op: Convolution, axis: int, windows: int, extent: int) -> npt.NDArray[np.int64]:
    """How many taps along an axis lie in the input, for every window along it."""
    places = np.arange(windows)[:, None] * op.stride[axis] - op.padding[axis] + np.arange(op.kernel[axis])
    return np.asarray(((places >= 0) & (places < extent)).sum(axis=1))


def _sum_events(program: Program, step: Step, op: Convolution, windows: _Windows) -> Events:
    assert step.weights is not None
    encoding, (height, width) = step.weights.encoding, op.kernel
    channels, pixel = len(step.weights.heads), step.tensors[op.inputs[0]].shape[2]
    groups = channels if encoding in ("channels", "gaps", "depthwise") else -(-channels // 2)
    pair_rows, lone_rows = windows.pairs * groups * height, windows.lone_rows * groups
    match encoding:
        case "gaps":
            entries = sum(len(gap_entries(row)) for row in op.weights.reshape(-1, width * pixel)) // 2
            lone_rows = windows.lone * groups * height
            taps, lone_taps = windows.pairs * entries, windows.lone * entries
        case "words":
            taps, lone_taps = pair_rows * -(-width * pixel // WORD_TAPS), windows.lone_columns * groups * pixel
        case "depthwise":
            taps, lone_taps = 0, windows.lone_columns * groups
        case "pairs" | "channels":
            taps, lone_taps = pair_rows * width * pixel, windows.lone_columns * groups * pixel
    name = f"{encoding}{program.sum_bytes}"
    found = _loops(f"{name}.pair", (windows.pairs, windows.pairs * groups, pair_rows, taps))
    alone = f"{name}.alone{'.padded' if program.padded else ''}"
    found += _loops(alone, (windows.lone, windows.lone * groups, lone_rows, lone_taps))
    found["larger"] = (windows.pairs + windows.lone) * groups if step.stage.pool is not None else 0
    if encoding == "gaps" and windows.lone:
        found[f"{alone}.inside"] = round(lone_taps * windows.lone_columns / (windows.lone * height * width))
    return found


def _loops(name: str, counts: tuple[int, int, int, int]) -> Events:
    return Counter(dict(zip((name, f"{name}.channel", f"{name}.row", f"{name}.tap"), counts, strict=True)))


def _pool_events(name: str, window: tuple[int, int], output: TensorType) -> Events:
    height, width = window
    outputs = math.prod(output.shape)
    places = outputs // output.shape[2]
    return Counter(
        {
            name: 1,
            f"{name}.place": places,
            f"{name}.output": outputs,
            f"{name}.row": outputs * height,
            f"{name}.tap": outputs * height * width,
        }
    )


def _add_events(op: Add, output: TensorType, inputs: list[TensorType]) -> Events:
    elements = math.prod(output.shape)
    found = Counter({"add": 1, f"add.element.{output.dtype}": elements})
    for tensor in inputs:
        found[f"add.{tensor.dtype}"] += elements
    return found + _shifts(np.full(elements, op.shift))


def _shifts(shifts: np.ndarray) -> Events:
    """By the steps of a shift where it is done byte by byte, then bit by bit; a ReLU behind sums has its own way."""
    rest = shifts[shifts > 0] - 1  # the last bit goes with the rounding
    return Counter(
        {
            "shift.none": int((shifts == 0).sum()),
            "shift.byte": int((rest // 8).sum()),
            "shift.bit": int((rest % 8).sum()),
        }
    )
