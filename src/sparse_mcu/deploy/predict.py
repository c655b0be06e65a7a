"""Flash, RAM and cycles of a network on a board, predicted without compiling anything.

The code of kernels and their stack are constants of a core, and so is the time of every event that their loops repeat: a window,
a tap, a weight that is zero (``events``). tools/measure_kernels.py measures them. Weights and descriptors are counted exactly.
"""

from collections import Counter
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import EncodedWeights, rows
from sparse_mcu.deploy.kernel_costs import KernelCosts, kernel_costs, variant
from sparse_mcu.deploy.program import Program, Step, check_constants, lower
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    Int8Array,
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
        ram_bytes=program.plan.arena_bytes + max(costs.stack[" ".join(step.kernels)] for step in program.steps),
        cycles=round(costs.cycles["base"]) + sum(part.cycles for part in parts),
        parts=parts,
    )


def _part(program: Program, step: Step, costs: KernelCosts) -> Part:
    cycles = sum(costs.cycles[event] * count for event, count in events(step, program.graph.tensors).items())
    return Part(step.op.name, _step_bytes(step, costs), round(cycles))


def flash_bytes(program: Program, costs: KernelCosts) -> int:
    """Return the bytes of ``program`` in flash: its steps, kernels, and what the compiler links to them."""
    sections = [variant(section, program.bias_bytes) for section in program.kernels]
    helpers = {helper for section in sections for helper in costs.uses.get(section, ())}
    shared = sum(costs.code[section] for section in sections) + sum(costs.helpers[helper] for helper in helpers)
    return costs.base_bytes + shared + sum(_step_bytes(step, costs) for step in program.steps)


def _step_bytes(step: Step, costs: KernelCosts) -> int:
    """Bytes of the call, the descriptor and the weights of a step."""
    weights = 0 if step.weights is None else step.weights.size
    if isinstance(step.op, Add):
        return costs.call["add"] + costs.structs["add"] + len(step.op.inputs) * costs.structs["operand"]
    return costs.call["run"] + costs.structs[step.struct] + weights


def events(step: Step, tensors: dict[str, TensorType]) -> Events:
    """Count what the kernels of ``step`` repeat. Data that decide a branch (a maximum, a clamp) are not looked at."""
    output = tensors[step.op.name]
    height, width, channels = output.shape
    windows = height * width
    match step.op:
        case Add():
            return _add_events(step.op, output, [tensors[name] for name in step.op.inputs])
        case MaxPool2d():
            return _run_events(step, output) + _pool_events("max", step.op.window, windows * channels)
        case AveragePool2d():
            shifts = np.full(windows * channels, step.op.shift)
            return (
                _run_events(step, output)
                + _pool_events("average", step.op.window, windows * channels)
                + _requantise(shifts, output)
            )
        case Conv2d() | DepthwiseConv2d():
            assert step.weights is not None
            found = _run_events(step, output) + _rows_events(step.op, step.weights, windows)
            if step.kernels[0] == "window_gathered":
                found += _gather_events(step.op, tensors[step.op.inputs[0]], output)
            return found + _requantise(np.repeat(step.op.shift, windows), output)
        case _:
            assert_never(step.op)


def _run_events(step: Step, output: TensorType) -> Events:
    height, width, _ = output.shape
    return Counter({"run": 1, "run.row": height, step.kernels[0]: height * width})


def _rows_events(op: Convolution, weights: EncodedWeights, windows: int) -> Events:
    """Outputs, and taps by what the encoding makes of them; ``rows_...`` are the calls."""
    table: Int8Array = rows(op)  # (O, T)
    groups = len(table) if isinstance(op, DepthwiseConv2d) else 1
    name = weights.encoding
    found = Counter({f"rows_{name}": groups, f"{name}.output": len(table)})
    if name == "dense":
        found["dense.tap"] = table.size
    else:
        nonzero = np.pad(table != 0, ((0, 0), (0, -table.shape[1] % 8))).reshape(-1, 8).sum(axis=1)  # in a byte of the bitmap
        used = nonzero[nonzero > 0]
        found |= Counter({"bitmap.empty": len(nonzero) - len(used), "bitmap.byte": len(used)})
        found |= Counter({"bitmap.weight": int(used.sum()), "bitmap.zero": int((8 - used).sum())})
    return Counter({event: count * windows for event, count in found.items()})


def _gather_events(op: Convolution, source: TensorType, output: TensorType) -> Events:
    """Taps copied from the input, and taps filled with zeros."""
    height, width, _ = output.shape
    groups = source.shape[2] if isinstance(op, DepthwiseConv2d) else 1
    rows_inside = _taps_inside(op, 0, height, source.shape[0])
    columns_inside = _taps_inside(op, 1, width, source.shape[1])
    taps = height * width * op.kernel[0] * op.kernel[1] * source.shape[2]
    inside = rows_inside * columns_inside * source.shape[2]
    gathers = height * width * groups
    return Counter(
        {"gather": gathers, "gather.row": gathers * op.kernel[0], "gather.inside": inside, "gather.outside": taps - inside}
    )


def _taps_inside(op: Convolution, axis: int, windows: int, extent: int) -> int:
    """How many taps along an axis lie in the input, over all windows along it."""
    places = np.arange(windows)[:, None] * op.stride[axis] - op.padding[axis] + np.arange(op.kernel[axis])
    return int(((places >= 0) & (places < extent)).sum())


def _pool_events(name: str, window: tuple[int, int], outputs: int) -> Events:
    height, width = window
    return Counter({f"{name}.output": outputs, f"{name}.row": outputs * height, f"{name}.tap": outputs * height * width})


def _add_events(op: Add, output: TensorType, inputs: list[TensorType]) -> Events:
    elements = int(np.prod(output.shape))
    found = Counter({"add": 1, "add.element": elements})
    for tensor in inputs:
        found[f"add.{tensor.dtype}"] += elements
    return found + _requantise(np.full(elements, op.shift), output)


def _requantise(shifts: np.ndarray, output: TensorType) -> Events:
    """By type of the output, and by the steps of a shift where it is done byte by byte, then bit by bit."""
    found = Counter({f"requantise.{output.dtype}": len(shifts), "shift.none": int((shifts == 0).sum())})
    rest = shifts[shifts > 0] - 1  # the last bit goes with the rounding
    return found + Counter({"shift.byte": int((rest // 8).sum()), "shift.bit": int((rest % 8).sum())})
