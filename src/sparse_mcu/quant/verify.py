"""The rules of an integer graph, checked before anything trusts one: the interpreter, the code generator, a file just read.

A graph that breaks a rule is a fault of ours (or a damaged file), never of the user's input.
H, W, C: height, width, channels; O: output channels; I: input channels.
"""

import math
from collections import Counter
from typing import assert_never

import numpy as np

from sparse_mcu.errors import SparseMcuError
from sparse_mcu.quant.fixedpoint import (
    MAX_CHANNEL_MULTIPLIER,
    MAX_MULTIPLIER,
    MAX_SHIFT,
    add_magnitude,
    average_magnitude,
    fits_int32,
    sum_bounds,
)
from sparse_mcu.quant.graph import (
    INPUT,
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


class GraphError(SparseMcuError):
    """An integer graph that breaks a rule."""


def verify(graph: IntegerGraph) -> None:
    """Raise GraphError unless ``graph`` keeps every rule of docs/integer-arithmetic.md; then no input overflows an int32."""
    _verify_names(graph)
    for name, tensor in graph.tensors.items():
        _verify_tensor(name, tensor)
    _require(graph.tensors[INPUT].dtype == "uint8", f"the input must be uint8, but is {graph.tensors[INPUT].dtype}")
    for op in graph.ops:
        _verify_op(op, [graph.tensors[name] for name in op.inputs], graph.tensors[op.name])
    logits = graph.tensors[graph.output]
    _require(logits.dtype == "int16", f"the logits must be int16, but {graph.output} is {logits.dtype}")
    _require(logits.shape[:2] == (1, 1), f"the logits must have shape (1, 1, classes), but {graph.output} has {logits.shape}")


def _verify_names(graph: IntegerGraph) -> None:
    """Each name once, each tensor typed, written before it is read, and read by something (the logits excepted)."""
    _require(len(graph.ops) > 0, "a graph must have at least one operation, but has none")
    name, count = Counter([INPUT, *(op.name for op in graph.ops)]).most_common(1)[0]
    _require(count == 1, f"a tensor must be written once, but {name!r} is written {count} times")
    written = [INPUT, *(op.name for op in graph.ops)]
    odd = set(written) ^ set(graph.tensors)
    _require(not odd, f"graph.tensors must name the input and every operation, but differs in {sorted(odd)}")
    for index, op in enumerate(graph.ops):
        for source in op.inputs:
            _require(source in written[: index + 1], f"{op.name} must read earlier tensors, but reads {source!r}")
    unread = set(written[:-1]) - {source for op in graph.ops for source in op.inputs}
    _require(not unread, f"every tensor but the logits must be read, but nothing reads {sorted(unread)}")


def _verify_tensor(name: str, tensor: TensorType) -> None:
    positive = len(tensor.shape) == 3 and all(type(extent) is int and extent >= 1 for extent in tensor.shape)
    _require(positive, f"a shape must be three positive integers (H, W, C), but {name} has {tensor.shape}")
    _require(tensor.dtype in ("uint8", "int16"), f"a tensor must be uint8 or int16, but {name} is {tensor.dtype}")
    _require(math.isfinite(tensor.scale) and tensor.scale > 0, f"a scale must be positive, but {name} has {tensor.scale}")


def _verify_op(op: Op, inputs: list[TensorType], output: TensorType) -> None:
    if isinstance(op, Add):
        _verify_add(op, inputs, output)
        return
    _require(len(inputs) == 1, f"{op.name} must read one tensor, but reads {len(inputs)}")
    _require(inputs[0].dtype == "uint8", f"{op.name} must read uint8, but {op.inputs[0]} is {inputs[0].dtype}")
    match op:
        case Conv2d() | DepthwiseConv2d():
            _verify_convolution(op, inputs[0], output)
        case MaxPool2d() | AveragePool2d():
            _verify_pool(op, inputs[0], output)
        case _:
            assert_never(op)


def _verify_convolution(op: Convolution, source: TensorType, output: TensorType) -> None:
    channels = source.shape[2]
    depthwise = isinstance(op, DepthwiseConv2d)
    rank = 3 if depthwise else 4
    shape = op.weights.shape
    _require(
        len(shape) == rank and min(shape) >= 1, f"the weights of {op.name} must have {rank} dimensions, but have shape {shape}"
    )
    _require(
        shape[-1] == channels, f"the weights of {op.name} must end with its {channels} input channels, but have shape {shape}"
    )
    out_channels = channels if depthwise else shape[0]
    _verify_arrays(op, out_channels)
    _require(_positive(op.stride), f"a stride must be two positive integers, but {op.name} has {op.stride}")
    in_kernel = len(op.padding) == 4 and all(0 <= p < k for p, k in zip(op.padding, op.kernel * 2, strict=True))
    _require(in_kernel, f"padding must be 0 to kernel - 1 on each side, but {op.name} has {op.padding} with kernel {op.kernel}")
    padded = (source.shape[0] + op.padding[0] + op.padding[2], source.shape[1] + op.padding[1] + op.padding[3])
    _verify_shape(op.name, padded, op.kernel, op.stride, out_channels, output)
    low, high = sum_bounds(op, source)
    _verify_requantisation(op.name, np.maximum(-low, high), op.multiplier, op.shift)


def _verify_arrays(op: Convolution, out_channels: int) -> None:
    _require(op.weights.dtype == np.int8, f"the weights of {op.name} must be int8, but are {op.weights.dtype}")
    _require(op.weights.min() >= -127, f"the weights of {op.name} must be -127..127, but reach -128")
    for name, array in (("bias", op.bias), ("multiplier", op.multiplier), ("shift", op.shift)):
        _require(array.dtype == np.int32, f"the {name} of {op.name} must be int32, but is {array.dtype}")
        _require(
            array.shape == (out_channels,), f"the {name} of {op.name} must have shape ({out_channels},), but has {array.shape}"
        )
    _verify_range(op.name, "multiplier", op.multiplier, 1, MAX_CHANNEL_MULTIPLIER)


def _verify_pool(op: MaxPool2d | AveragePool2d, source: TensorType, output: TensorType) -> None:
    _require(_positive(op.window), f"a window must be two positive integers, but {op.name} has {op.window}")
    _require(output.dtype == "uint8", f"a pool must write uint8, but {op.name} writes {output.dtype}")
    _verify_shape(op.name, source.shape[:2], op.window, op.window, source.shape[2], output)
    if isinstance(op, MaxPool2d):
        same = output.scale == source.scale
        _require(same, f"a max pool must keep the scale {source.scale}, but {op.name} has {output.scale}")
    else:
        _verify_range(op.name, "multiplier", np.array(op.multiplier), 1, MAX_MULTIPLIER)
        _verify_requantisation(op.name, np.array(average_magnitude(op.window)), np.array(op.multiplier), np.array(op.shift))


def _verify_add(op: Add, inputs: list[TensorType], output: TensorType) -> None:
    _require(len(inputs) >= 2, f"an addition must read two or more tensors, but {op.name} reads {len(inputs)}")
    _require(len(set(op.inputs)) == len(inputs), f"an addition must read different tensors, but {op.name} reads {op.inputs}")
    for name, tensor in zip(op.inputs, inputs, strict=True):
        _require(
            tensor.shape == output.shape,
            f"an addition must join equal shapes, but {op.name} is {output.shape} and {name} is {tensor.shape}",
        )
    _require(
        len(op.multiplier) == len(inputs),
        f"an addition must have a multiplier per input, but {op.name} has {len(op.multiplier)} for {len(inputs)}",
    )
    _verify_range(op.name, "multiplier", np.array(op.multiplier), 0, MAX_MULTIPLIER)
    _verify_requantisation(op.name, np.array(add_magnitude(op.multiplier, inputs)), np.array(1), np.array(op.shift))


def _verify_shape(
    name: str,
    size: tuple[int, ...],  # (H, W), padded
    kernel: tuple[int, int],
    stride: tuple[int, int],
    channels: int,
    output: TensorType,
) -> None:
    fits = all(k <= extent for k, extent in zip(kernel, size, strict=True))
    _require(fits, f"a kernel must fit its padded input, but {name} has kernel {kernel} on {size}")
    height, width = ((extent - k) // s + 1 for extent, k, s in zip(size, kernel, stride, strict=True))
    expected = (height, width, channels)
    _require(output.shape == expected, f"{name} must write shape {expected}, but its tensor has {output.shape}")


def _verify_requantisation(name: str, magnitude: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> None:
    _verify_range(name, "shift", shift, 0, MAX_SHIFT)
    fits = fits_int32(magnitude, multiplier, shift)
    worst = int(np.argmin(fits))
    _require(
        bool(fits.all()),
        f"|sum| * multiplier + half must stay below 2**31, but {name} channel {worst} has "
        f"|sum| up to {magnitude.flat[worst]} and shift {shift.flat[worst]}",
    )


def _verify_range(name: str, what: str, values: np.ndarray, low: int, high: int) -> None:
    _require(
        np.issubdtype(values.dtype, np.integer) and bool(((values >= low) & (values <= high)).all()),
        f"the {what} of {name} must be integers {low}..{high}, but are {values.min()}..{values.max()}",
    )


def _positive(pair: tuple[int, int]) -> bool:
    return len(pair) == 2 and all(type(extent) is int and extent >= 1 for extent in pair)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise GraphError(message)
