"""What kernels repeat in an inference: windows, taps, weights that are not zero. Each event has its cost (kernel_costs.py)."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.access import twice
from sparse_mcu.deploy.encode import BITMAPS, CRUMBS, WORD_TAPS, crumb_gap_entries, gap_entries
from sparse_mcu.deploy.program import Program, Step
from sparse_mcu.deploy.unroll import loops, mean_parts
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    MaxPool2d,
    TensorType,
)

Events = Counter[str]


def unrolled_parts(step: Step) -> Counter[str]:
    """Count what the straight-line code of ``step`` consists of: nothing, if it has none."""
    op = step.stage.op
    if isinstance(op, AveragePool2d):
        return mean_parts(op, step.tensors[op.inputs[0]], step.tensors[step.stage.name]) if step.straight else Counter()
    if not step.blocks:
        return Counter()
    around = Counter({"function": 1, "loop": loops(step.stage, step.tensors[step.stage.name])})
    return sum((block.parts + block.put_parts for block in step.blocks), around)


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
        case AveragePool2d() if step.straight:
            return _mean_events(op, output)
        case AveragePool2d():
            multiplied = Counter({"average.multiplied": elements if op.multiplier != 1 else 0})
            return _pool_events("average", op.window, output) + multiplied + _shifts(np.full(elements, op.shift))
        case Conv2d() | DepthwiseConv2d():
            return _conv_events(program, step, op)
        case _:
            assert_never(op)


def _conv_events(program: Program, step: Step, op: Convolution) -> Events:
    output = step.tensors[step.stage.name]
    if step.blocks:
        return _unrolled_events(program, step, op, output)
    windows = _windows(step, op, step.tensors[op.inputs[0]], output)
    places = math.prod(output.shape[:2])
    kind = _kind(program)
    found = Counter({f"convolve{kind}": 1, f"convolve{kind}.row": output.shape[0], f"convolve{kind}.output": places})
    found[f"window{kind}"] = windows.count
    found["clip"] = windows.lone if program.padded else 0
    found["odd"] = windows.odd
    return found + _requantise_events(program, op, output) + _sum_events(program, step, op, windows)


def _kind(program: Program) -> str:
    """How the kernels of convolutions are compiled: what a loop takes differs."""
    return f"{'.padded' if program.padded else ''}{'' if program.paired else '.single'}"


def _requantise_events(program: Program, op: Convolution, output: TensorType) -> Events:
    found = Counter({f"requantise{program.sum_bytes}.{output.dtype}": math.prod(output.shape)})
    return found + _shifts(np.repeat(op.shift, math.prod(output.shape[:2]))) if output.dtype == "int16" else found


def _unrolled_events(program: Program, step: Step, op: Convolution, output: TensorType) -> Events:
    places = math.prod(output.shape[:2])
    windows = places * math.prod(step.stage.windows)
    parts = sum((block.parts for block in step.blocks), Counter[str]())
    found = Counter({f"unrolled.{part}": count * windows for part, count in parts.items()})
    found["unrolled.output"], found["unrolled.window"] = places, windows
    if program.board.is_avr:
        puts = sum((block.put_parts for block in step.blocks), Counter[str]())
        found.update({f"unrolled.{part}": count * places for part, count in puts.items()})
        return found + (_requantise_events(program, op, output) if output.dtype == "int16" else Counter())
    found["larger"] = windows * len(op.bias) if step.stage.pool is not None else 0
    return found + _requantise_events(program, op, output)


@dataclass(frozen=True, slots=True)
class _Windows:
    """How a convolution sums up its windows: in pairs, an odd one as if it were two; and alone, or what lies inside of one."""

    count: int
    pairs: int  # the odd ones among them
    odd: int
    lone: int
    rows: npt.NDArray[np.int64]  # (KH,) lone windows of which that row lies inside
    taps: npt.NDArray[np.int64]  # (KH, KW) lone windows of which that tap lies inside


def _windows(step: Step, op: Convolution, source: TensorType, output: TensorType) -> _Windows:
    windows = step.stage.windows
    inside = [_inside(op, axis, output.shape[axis] * windows[axis], source.shape[axis]) for axis in (0, 1)]
    paired = np.outer(inside[0].all(axis=1), inside[1].all(axis=1)) & bool(step.fields["paired"])
    lone = (~paired).astype(np.int64)
    if step.fields["paired"] and twice(step.stage, output):
        of_a_step = np.add.reduceat(paired.reshape(-1), np.arange(0, paired.size, 2), dtype=np.int64)
    else:
        of_a_step = paired.reshape(output.shape[0], windows[0], output.shape[1], windows[1]).sum(axis=(1, 3))
    odd = int((of_a_step % 2).sum())
    pairs = (int(paired.sum()) + odd) // 2
    of_rows = inside[0].T.astype(np.int64) @ lone
    return _Windows(paired.size, pairs, odd, int(lone.sum()), of_rows.sum(axis=1), of_rows @ inside[1])


def _inside(op: Convolution, axis: int, windows: int, extent: int) -> npt.NDArray[np.bool_]:
    """Whether taps along an axis lie in the input: (windows, kernel), for every window along it."""
    places = np.arange(windows)[:, None] * op.stride[axis] - op.padding[axis] + np.arange(op.kernel[axis])
    return np.asarray((places >= 0) & (places < extent))


def _stored(op: Convolution, pixel: int, encoding: str) -> npt.NDArray[np.int64]:
    """How many entries of all channels stand for a tap (KH, KW), where those of a row are followed by their gaps."""
    if encoding == "crumb_gaps":  # a half of a byte that only goes on asks for no tap
        return _kept(op)
    height, width = op.kernel
    found = np.zeros((height, width), np.int64)
    for index, row in enumerate(op.weights.reshape(-1, width * pixel)):
        places = np.cumsum([gap for gap, _ in gap_entries(row)], dtype=np.int64)
        if encoding == "gaps":  # in pairs: the last one may be joined by a zero at its own place
            places = np.append(places, places[len(places) // 2 * 2 :])
        np.add.at(found[index % height], places // pixel, 1)
    return found


def _kept(op: Convolution) -> npt.NDArray[np.int64]:
    """How many weights of all channels are not zero at a tap (KH, KW)."""
    kept: npt.NDArray[np.int64] = (op.weights != 0).sum(axis=(0, 3), dtype=np.int64)
    return kept


def _halves(op: Convolution) -> int:
    """How many halves of bytes crumb_gaps has, but those that fill up a byte."""
    return sum(len(crumb_gap_entries(row)) for row in op.weights.reshape(-1, op.kernel[1] * op.weights.shape[-1]))


def _sum_events(program: Program, step: Step, op: Convolution, windows: _Windows) -> Events:
    assert step.weights is not None
    encoding, (height, width) = step.weights.encoding, op.kernel
    channels, pixel = len(step.weights.heads), step.tensors[op.inputs[0]].shape[2]
    groups = -(-channels // 2) if encoding in ("pairs", "words") else channels
    pair_rows, lone_rows = windows.pairs * groups * height, int(windows.rows.sum()) * groups
    lone_taps = int(windows.taps.sum()) * groups
    inside: Events = Counter()
    match encoding:
        case "gaps" | "nibble_gaps" | "crumb_gaps":
            stored = _stored(op, pixel, encoding)
            entries = _halves(op) if encoding == "crumb_gaps" else int(stored.sum()) // (2 if encoding == "gaps" else 1)
            lone_rows = windows.lone * groups * height
            taps, lone_taps = windows.pairs * entries, windows.lone * entries
            inside = Counter({"row": int(windows.rows @ stored.sum(axis=1)), "tap": int((windows.taps * stored).sum())})
        case "words":
            taps, lone_taps = pair_rows * -(-width * pixel // WORD_TAPS), lone_taps * pixel
        case "depthwise":
            taps = 0
        case "bitmap" | "nibble_bitmap":
            lone_rows = windows.lone * groups * height
            taps, lone_taps = pair_rows * width * pixel, lone_rows * width * pixel
        case "pairs" | "channels" | "nibbles" | "crumbs":
            taps, lone_taps = pair_rows * width * pixel, lone_taps * pixel
    name = f"{encoding}{program.sum_bytes}"
    # With so many values at hand, compilers put some on the stack where a kernel is also for windows that lie partly outside.
    pair = f"{name}.pair{'.padded' if program.padded and encoding in BITMAPS else ''}"
    found = _loops(pair, (windows.pairs, windows.pairs * groups, pair_rows, taps))
    alone = f"{name}.alone{_kind(program)}"
    found += _loops(alone, (windows.lone, windows.lone * groups, lone_rows, lone_taps))
    found["larger"] = (windows.pairs + windows.lone) * groups if step.stage.pool is not None else 0
    found.update({f"{alone}.inside.{part}": count for part, count in inside.items()})
    if encoding in (*BITMAPS, *CRUMBS):
        kept = _kept(op)
        found[f"{pair}.weight"] = windows.pairs * int(kept.sum())
        found[f"{alone}.weight"] = windows.lone * int(kept.sum()) if encoding in BITMAPS else int((windows.taps * kept).sum())
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


def _mean_events(op: AveragePool2d, output: TensorType) -> Events:
    rows, columns, channels = output.shape
    elements = rows * columns * channels
    return Counter(
        {
            "mean": 1,
            "mean.row": rows,
            "mean.place": rows * columns,
            "mean.output": elements,
            "mean.tap": elements * math.prod(op.window),
            "mean.scaled": elements if op.multiplier != 1 else 0,
        }
    ) + (_shifts(np.full(elements, op.shift)) if op.multiplier != 1 else Counter())


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
