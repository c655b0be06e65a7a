"""An integer graph as the steps that its C takes: a kernel, a descriptor and offsets in the arena for each operation.

Code generation writes a program down; prediction counts it. A step calls ``run`` with a window kernel, or ``add``; the fields of
its descriptor are those of the struct in c/kernels.c and mean the same.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from sparse_mcu.deploy.access import gathers, item_bytes, tensor_bytes
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.encode import ENCODINGS, EncodedWeights, bias_bytes, encode_network
from sparse_mcu.deploy.kernel_costs import KernelCosts, variant
from sparse_mcu.deploy.kernels import needed
from sparse_mcu.deploy.plan import MemoryPlan, plan
from sparse_mcu.errors import BoardError
from sparse_mcu.quant.graph import (
    Add,
    AveragePool2d,
    Conv2d,
    Convolution,
    DepthwiseConv2d,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
)
from sparse_mcu.quant.verify import verify

Fields = dict[str, "int | str | Fields"]  # a string is a C name
MAX_PLACE = 0xFFFF  # kernels count places within a tensor in 16 bits
MAX_AVR_CONSTANTS = 60_000  # leaves room for descriptors, interrupt vectors and the constants of the program around


@dataclass(frozen=True, slots=True)
class Step:
    """One operation. ``name`` is its own among the steps; behind a prefix (layer_, weights_, operands_) it is a C name."""

    op: Op
    name: str
    struct: str  # of the descriptor: conv, gathered, pool, average or add
    kernels: tuple[str, ...]  # called from the outside in: window and rows, window alone, or add
    fields: Fields
    weights: EncodedWeights | None


@dataclass(frozen=True, slots=True)
class Program:
    """A graph's steps in order, and where everything lies in the arena."""

    graph: IntegerGraph
    plan: MemoryPlan
    bias_bytes: int
    steps: tuple[Step, ...]

    @property
    def kernels(self) -> tuple[str, ...]:
        """The sections of c/kernels.c that the steps need, in the order of the file."""
        return needed(["prelude", *(kernel for step in self.steps for kernel in step.kernels)])


def lower(graph: IntegerGraph, costs: KernelCosts | None) -> Program:
    """Return ``graph`` as a program whose weights and the kernels that read them take least flash, where ``costs`` are known.

    Raises BoardError where a tensor is too large for the kernels, GraphError if ``graph`` breaks a rule.
    """
    verify(graph)
    _check_places(graph)
    convolutions = [op for op in graph.ops if isinstance(op, Convolution)]
    size = bias_bytes(convolutions)
    weights = encode_network(
        convolutions, size, {e: 0 if costs is None else costs.code[variant(f"rows_{e}", size)] for e in ENCODINGS}
    )
    names = _identifiers(op.name for op in graph.ops)
    steps = [_step(graph, op, names[op.name], weights) for op in graph.ops]
    return Program(graph, plan(graph), size, tuple(steps))


def check_constants(program: Program, board: Board) -> None:
    """Raise BoardError where the core of ``board`` cannot reach all weights: LPM of an AVR reads the first 64 KiB of flash."""
    constants = sum(step.weights.size for step in program.steps if step.weights is not None)
    if board.core.startswith("avr") and constants > MAX_AVR_CONSTANTS:
        raise BoardError(
            f"weights must take at most {MAX_AVR_CONSTANTS} bytes on an AVR, but take {constants}; search with a "
            "smaller flash budget"
        )


def _step(graph: IntegerGraph, op: Op, name: str, network: Mapping[str, EncodedWeights]) -> Step:
    source, output = graph.tensors[op.inputs[0]], graph.tensors[op.name]
    match op:
        case Add():
            return Step(op, name, "add", ("add",), _add(op, name, output), None)
        case MaxPool2d():
            return Step(op, name, "pool", ("window_max",), _pool(op, "window_max", source, output), None)
        case AveragePool2d():
            fields: Fields = {"pool": _pool(op, "window_average", source, output), "multiplier": op.multiplier, "shift": op.shift}
            return Step(op, name, "average", ("window_average",), fields, None)
        case Conv2d() | DepthwiseConv2d():
            weights = network[op.name]
            struct, window = ("gathered", "window_gathered") if gathers(op, source) else ("conv", "window_in_place")
            fields = _conv(op, name, window, weights, source, output)
            if struct == "gathered":
                fields = {"conv": fields} | _gathering(op, source)
            return Step(op, name, struct, (window, f"rows_{weights.encoding}"), fields, weights)
        case _:
            assert_never(op)


def _layer(
    window: str, source: TensorType, output: TensorType, step: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> Fields:
    height, width, _ = output.shape
    _, in_width, channels = source.shape
    return {
        "window": window,
        "height": height,
        "width": width,
        "top": -padding[0],
        "left": -padding[1] * channels,
        "down": step[0],
        "right": step[1] * channels,
        "row_bytes": in_width * channels,
    }


def _conv(op: Convolution, name: str, window: str, weights: EncodedWeights, source: TensorType, output: TensorType) -> Fields:
    return {
        "layer": _layer(window, source, output, op.stride, op.padding[:2]),
        "rows": f"rows_{weights.encoding}",
        "stream": f"weights_{name}",
        "taps": weights.taps,
        "outputs": 1 if isinstance(op, DepthwiseConv2d) else output.shape[2],
        "wide": _wide(output),
    }


def _gathering(op: Convolution, source: TensorType) -> Fields:
    in_height, _, channels = source.shape
    height, width = op.kernel
    depthwise = isinstance(op, DepthwiseConv2d)
    return {
        "in_height": in_height,
        "kernel_height": height,
        "kernel_width": width if depthwise else width * channels,
        "tap_step": channels if depthwise else 1,
        "groups": channels if depthwise else 1,
    }


def _pool(op: MaxPool2d | AveragePool2d, window: str, source: TensorType, output: TensorType) -> Fields:
    return {
        "layer": _layer(window, source, output, op.window),
        "channels": source.shape[2],
        "kernel_height": op.window[0],
        "kernel_width": op.window[1],
    }


def _add(op: Add, name: str, output: TensorType) -> Fields:
    return {
        "operands": f"operands_{name}",
        "count": len(op.inputs),
        "elements": tensor_bytes(output) // item_bytes(output),
        "shift": op.shift,
        "wide": _wide(output),
    }


def _wide(output: TensorType) -> int:
    return int(output.dtype == "int16")


def _check_places(graph: IntegerGraph) -> None:
    for name, tensor in graph.tensors.items():
        size = tensor_bytes(tensor)
        if size > MAX_PLACE:
            raise BoardError(f"a feature map must have at most {MAX_PLACE} bytes, but {name} has {size}; downsample the input")
    for op in graph.ops:
        if isinstance(op, Convolution):
            (height, width, channels), (top, left, _, _) = graph.tensors[op.inputs[0]].shape, op.padding
            reach = max(height + top, (width + left) * channels)
            if reach > MAX_PLACE:
                raise BoardError(f"a padded row must have at most {MAX_PLACE} bytes, but {op.name} has {reach}; pad it less")


def _identifiers(names: Iterable[str]) -> dict[str, str]:
    """Give every operation a name of its own that C can take behind a prefix."""
    given: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "unnamed"
        candidates = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        given[name] = next(candidate for candidate in candidates if candidate not in given.values())
    return given
