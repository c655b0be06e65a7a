"""Flash, RAM and cycles of a network on a board, predicted without compiling anything.

The code of kernels and their stack are constants of a core, and so is the time of every event that their loops repeat: a window,
a tap, a weight that is zero (``events``). tools/measure_kernels.py measures them. Weights and descriptors are counted exactly.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.access import paired, twice
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import gap_entries
from sparse_mcu.deploy.kernel_costs import KernelCosts, kernel_costs
from sparse_mcu.deploy.program import Program, Step, check_constants, lower
from sparse_mcu.deploy.stages import Stage
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
    ram_bytes: int  # variables, the image included, and the deepest stack
    cycles: int  # of an inference
    parts: tuple[Part, ...]


def predict(graph: IntegerGraph, board: Board) -> Prediction:
    """Return what ``graph`` takes on ``board``; raise BoardError if its core has not been measured."""
    costs = kernel_costs(board)
    program = lower(graph, costs)
    check_constants(program, board)
    return predict_program(program, costs)


def predict_program(program: Program, costs: KernelCosts) -> Prediction:
    """Return what ``program`` takes where kernels take ``costs``."""
    parts = tuple(_part(program, step, costs) for step in program.steps)
    return Prediction(
        flash_bytes=flash_bytes(program, costs),
        ram_bytes=program.variable_bytes + max(costs.stack[program.variant(step.kernels[-1])] for step in program.steps),
        cycles=round(costs.cycles["base"]) + sum(part.cycles for part in parts),
        parts=parts,
    )


def _part(program: Program, step: Step, costs: KernelCosts) -> Part:
    cycles = sum(costs.cycles[event] * count for event, count in events(program, step).items())
    return Part(step.stage.name, _step_bytes(program, step, costs), round(cycles))


def flash_bytes(program: Program, costs: KernelCosts) -> int:
    """Return the bytes of ``program`` in flash: its steps, kernels, and what the compiler links to them."""
    sections = [program.variant(section) for section in program.kernels]
    helpers = {helper for section in sections for helper in costs.uses.get(section, ())}
    shared = sum(costs.code[section] for section in sections) + sum(costs.helpers[helper] for helper in helpers)
    return costs.base_bytes + shared + sum(_step_bytes(program, step, costs) for step in program.steps)


def _step_bytes(program: Program, step: Step, costs: KernelCosts) -> int:
    """Bytes of the call, the descriptor and the weights of a step."""
    call = costs.call[step.kernels[0]]
    if step.weights is not None:
        return call + costs.structs["conv.padded" if program.padded else "conv"] + step.weights.size
    operands = len(step.stage.op.inputs) * costs.structs["operand"] if isinstance(step.stage.op, Add) else 0
    return call + costs.structs[step.struct] + operands


def events(program: Program, step: Step) -> Events:
    """Count what the kernels of ``step`` repeat. Data that decide a branch (a maximum, a clamp, a ReLU) are not looked at."""
    op, tensors = step.stage.op, program.graph.tensors
    output = tensors[step.stage.name]
    elements = math.prod(output.shape)
    match op:
        case Add():
            return _add_events(op, output, [tensors[name] for name in op.inputs])
        case MaxPool2d():
            return _pool_events("max", op.window, output)
        case AveragePool2d():
            multiplied = Counter({"average.multiplied": elements if op.multiplier != 1 else 0})
            return _pool_events("average", op.window, output) + multiplied + _shifts(np.full(elements, op.shift), output)
        case Conv2d() | DepthwiseConv2d():
            visits = _visits(step.stage, op, tensors[op.inputs[0]], output)
            found = Counter({"convolve": 1, "convolve.row": output.shape[0], "convolve.output": elements // output.shape[2]})
            found["visit.padded" if program.padded else "visit"] = visits.pairs * 2 + visits.singles + visits.clipped
            found["flush"] = visits.flushed
            found += _sum_events(program, step, op, visits)
            return found + _shifts(np.repeat(op.shift, elements // output.shape[2]), output, ".sum")
        case _:
            assert_never(op)


@dataclass(frozen=True, slots=True)
class _Visits:
    """How a convolution sums up its windows: how many pairs, how many alone, and how many that stick out of the input."""

    pairs: int
    singles: int
    clipped: int
    clipped_rows: int  # of taps inside, over all windows that stick out
    clipped_columns: int  # of those rows, together
    flushed: int  # singles that waited for another window


def _visits(stage: Stage, op: Convolution, source: TensorType, output: TensorType) -> _Visits:
    inside = [_inside(op, axis, output.shape[axis] * stage.windows[axis], source.shape[axis]) for axis in (0, 1)]
    whole = np.outer(inside[0] == op.kernel[0], inside[1] == op.kernel[1])
    rows = np.broadcast_to(inside[0][:, None], whole.shape)[~whole]
    columns = np.broadcast_to(inside[1], whole.shape)[~whole]
    windows, pairs = int(whole.sum()), 0
    if twice(stage, output):
        flat = whole.reshape(-1)[: whole.size // 2 * 2].reshape(-1, 2)
        pairs = int(flat.all(axis=1).sum())
    elif paired(stage, output):
        (height, width, _), (down, across) = output.shape, stage.windows
        pairs = int((whole.reshape(height, down, width, across).sum(axis=(1, 3)) // 2).sum())
    singles = windows - 2 * pairs
    return _Visits(
        pairs, singles, rows.size, int(rows.sum()), int((rows * columns).sum()), singles if paired(stage, output) else 0
    )


def _inside(op: Convolution, axis: int, windows: int, extent: int) -> npt.NDArray[np.int64]:
    """How many taps along an axis lie in the input, for every window along it."""
    places = np.arange(windows)[:, None] * op.stride[axis] - op.padding[axis] + np.arange(op.kernel[axis])
    return np.asarray(((places >= 0) & (places < extent)).sum(axis=1))


def _sum_events(program: Program, step: Step, op: Convolution, visits: _Visits) -> Events:
    assert step.weights is not None
    height, width = op.kernel
    channels = len(step.weights.heads)
    pixel = program.graph.tensors[op.inputs[0]].shape[2]
    alone, rows_alone = visits.singles + visits.clipped, visits.singles * height + visits.clipped_rows
    taps_alone = visits.singles * height * width + visits.clipped_columns
    size = program.sum_bytes
    match step.weights.encoding:
        case "depthwise":
            return _loops("depthwise", (alone, alone * channels, rows_alone * channels, taps_alone * channels))
        case "dense":
            groups = -(-channels // 2)
            pair = (visits.pairs, visits.pairs * groups, visits.pairs * groups * height)
            single = (alone, alone * groups, rows_alone * groups, taps_alone * groups * pixel)
            larger = visits.pairs * groups if step.stage.pool is not None else 0
            return (
                _loops(f"dense{size}.pair", (*pair, visits.pairs * groups * height * width * pixel))
                + _loops(f"dense{size}.single", single)
                + Counter({f"dense{size}.larger": larger})
            )
        case "gaps":
            entries = sum(len(gap_entries(row)) for row in op.weights.reshape(-1, width * pixel)) // 2
            whole = visits.pairs + visits.singles
            return _loops(f"gaps{size}.pair", (whole, whole * channels, whole * channels * height, whole * entries)) + _loops(
                f"gaps{size}.clipped",
                (visits.clipped, visits.clipped * channels, visits.clipped * channels * height, visits.clipped * entries),
            )


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
    found = Counter({"add": 1, "add.element": elements})
    for tensor in inputs:
        found[f"add.{tensor.dtype}"] += elements
    return found + _shifts(np.full(elements, op.shift), output)


def _shifts(shifts: np.ndarray, output: TensorType, kind: str = "") -> Events:
    """By type of the output, and by the steps of a shift where it is done byte by byte, then bit by bit; ``kind`` of a sum."""
    found = Counter({f"requantise{kind}.{output.dtype}": len(shifts), "shift.none": int((shifts == 0).sum())})
    rest = shifts[shifts > 0] - 1  # the last bit goes with the rounding
    steps = "shift.relu" if kind and output.dtype == "uint8" else "shift"  # sums below zero are not shifted
    return found + Counter({f"{steps}.byte": int((rest // 8).sum()), f"{steps}.bit": int((rest % 8).sum())})
