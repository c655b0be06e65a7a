"""ONNX operators, one function each: what a node computes from Values and constants, as a Value; it appends layers where it must.

A function raises NetworkError where its node asks for what integer graphs have not; ``import_model`` then names the node.
The operators' definitions: https://onnx.ai/onnx/operators. O, C: output and input channels; KH, KW: kernel height and width.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparse_mcu.errors import NetworkError
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.quant.onnx.builder import Builder, Padding
from sparse_mcu.quant.onnx.geometry import dilated, padding_of, pair, ungrouped
from sparse_mcu.quant.onnx.model import Array, Model, Node
from sparse_mcu.quant.onnx.value import CONSTANT, Value, concatenated, maps, padded, whole
from sparse_mcu.space.architecture import Size
from sparse_mcu.space.layers import INPUT, Operation, Shape

FROM_0_TO_1 = (0.0, 1.0)


def import_model(
    model: Model,
    input_shape: Shape,  # of an image of the data, (C, H, W)
    input_range: tuple[float, float] = FROM_0_TO_1,  # the real values that bytes 0 and 255 stand for
) -> FoldedNetwork:
    """Return ``model`` as folded layers that take bytes. Raises NetworkError, with the node's name, where that cannot be."""
    scope = _Scope(model, input_shape)
    low, high = input_range
    scope.values[model.input] = _input(model, input_shape).scaled(high - low, low)
    for node in model.nodes:
        try:
            scope.run(node)
        except NetworkError as error:
            raise NetworkError(f"{node} of {model.path} cannot be compiled: {error}") from None
    if model.output not in scope.values:
        raise NetworkError(f"the output of a network must depend on its input, but that of {model.path} does not")
    try:
        return scope.builder.network(scope.values[model.output])
    except NetworkError as error:
        raise NetworkError(f"the output of {model.path} cannot be compiled: {error}") from None


def _input(model: Model, shape: Shape) -> Value:
    """The image as the network takes it: channels first or last, a signal, or one vector in the order (C, H, W)."""
    image = whole(INPUT, shape)
    channels, height, width = shape
    forms = [image, image.rearranged(lambda array: array.transpose(0, 2, 3, 1))]
    if height == 1:
        forms.append(image.rearranged(lambda array: array[:, :, 0]))
    forms.append(image.rearranged(lambda array: array.reshape(1, -1)))
    for form in forms:
        same = len(form.shape) == len(model.input_shape)
        if same and all(want in (None, extent) for want, extent in zip(model.input_shape[1:], form.shape[1:], strict=True)):
            return form
    wanted = "x".join("?" if extent is None else str(extent) for extent in model.input_shape)
    raise NetworkError(
        f"images must fit the network, but they are {channels}x{height}x{width} and {model.path} takes {wanted}, batch first; "
        "calibrate with the data that it was trained on"
    )


class _Scope:
    """What is known of each ONNX tensor so far: its value, or that it is constant."""

    def __init__(self, model: Model, input_shape: Shape) -> None:
        self.model = model
        self.builder = Builder(input_shape)
        self.values: dict[str, Value] = {}
        self.constants = dict(model.constants)
        self.readers = Counter(name for node in model.nodes if node.op != "Shape" for name in node.inputs)

    def run(self, node: Node) -> None:
        """Enter what ``node`` writes."""
        given = [name for name in node.inputs if name]
        if all(name in self.constants for name in given):
            self.constants |= self.model.evaluate(node, {name: self.constants[name] for name in given})
        elif node.op not in OPERATORS or node.proto.domain not in ("", "ai.onnx"):
            raise NetworkError(f"the operator is not supported; these are: {', '.join(sorted(OPERATORS))}")
        else:
            result = OPERATORS[node.op](self, node)
            entries: dict[str, Any] = self.values if isinstance(result, Value) else self.constants
            entries[node.outputs[0]] = result

    def value(self, node: Node, index: int = 0) -> Value:
        """Return an input that must not be constant."""
        name = node.inputs[index]
        if name not in self.values:
            raise NetworkError(f"its input {index} must come from the network's input, but is {self._kind(name)}")
        value = self.values[name]
        return Value(
            value.tensors, value.elements, value.gain, value.offset, exclusive=value.exclusive and self.readers[name] == 1
        )

    def constant(self, node: Node, index: int, default: Array | None = None) -> Array:
        """Return an input that must be constant, ``default`` where it is left out."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if not name and default is not None:
            return default
        if name not in self.constants:
            raise NetworkError(f"its input {index} must be constant, but is {self._kind(name)}")
        return self.constants[name]

    def numbers(self, node: Node, name: str, index: int, default: Sequence[int] = ()) -> list[int]:
        """Return whole numbers that older operator sets have as an attribute and newer ones as an input."""
        if name in node.attributes:
            return list(node.attributes[name])
        return [int(n) for n in self.constant(node, index, np.array(default, np.int64)).reshape(-1)]

    def _kind(self, name: str) -> str:
        return "left out" if not name else "constant" if name in self.constants else f"{name!r}, computed by the network"


def _conv(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    weight = scope.constant(node, 1).astype(np.float64)
    bias = scope.constant(node, 2, np.zeros(len(weight))).astype(np.float64)
    axes = weight.ndim - 2
    if axes not in (1, 2) or len(value.shape) != weight.ndim:
        raise NetworkError(f"a convolution must be 1-D or 2-D, but its weights have shape {weight.shape}")
    weight = weight.reshape(*weight.shape[:2], *(1,) * (2 - axes), *weight.shape[2:])
    weight = dilated(weight, pair(node.attributes.get("dilations", [1] * axes), 1))
    stride = pair(node.attributes.get("strides", [1] * axes), 1)
    padding = padding_of(node, maps(value).shape[2:], (weight.shape[2], weight.shape[3]), stride)
    group, channels = int(node.attributes.get("group", 1)), value.shape[1]
    depthwise = group == channels == len(weight) and group > 1
    if group > 1 and not depthwise:
        weight = ungrouped(weight, group)
    return scope.builder.convolution(node.name, value, weight, bias, stride, padding, depthwise=depthwise)


def _gemm(scope: _Scope, node: Node) -> Value:
    alpha, beta = (float(node.attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    weight = scope.constant(node, 1).astype(np.float64) * alpha
    weight = weight if node.attributes.get("transB", 0) else weight.T
    value = scope.value(node)
    if node.attributes.get("transA", 0) or value.shape[0] != 1:
        raise NetworkError(f"it must multiply a row of {weight.shape[1]}, but has shape {value.shape} or transA")
    bias = scope.constant(node, 2, np.zeros(1)).astype(np.float64) * beta
    return scope.builder.linear(node.name, value, weight, np.broadcast_to(bias.reshape(-1), (len(weight),)))


def _matmul(scope: _Scope, node: Node) -> Value:
    value, weight = scope.value(node), scope.constant(node, 1).astype(np.float64)
    if weight.ndim != 2 or math.prod(value.shape[:-1]) != 1:
        raise NetworkError(f"it must multiply a row by a matrix, but multiplies shape {value.shape} by {weight.shape}")
    result = scope.builder.linear(node.name, value, weight.T, np.zeros(weight.shape[1]))
    return result.rearranged(lambda array: array.reshape(*value.shape[:-1], -1))


def _pool(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    size, window = maps(value).shape[2:], pair(node.attributes["kernel_shape"], 1)
    stride = pair(node.attributes.get("strides", [1] * len(node.attributes["kernel_shape"])), 1)
    padding = padding_of(node, size, window, stride)
    _check_pool(node, size, window, stride, padding)
    single = [n < min(2 * w, w + s) for n, w, s in zip(size, window, stride, strict=True)]  # one window, whatever the stride
    tiled = all(w == s or one for w, s, one in zip(window, stride, single, strict=True))
    if tiled and not any(padding) and CONSTANT not in value.elements:
        return scope.builder.pool(node.name, value, "max_pool" if node.op == "MaxPool" else "average_pool", window)
    if node.op == "MaxPool":
        raise NetworkError(
            f"the windows of a max pool must not overlap, leave gaps or be padded, but {window} has stride {stride} and "
            f"padding {padding}"
        )
    channels = maps(value).shape[1]
    mean = np.full((channels, 1, *window), 1 / math.prod(window))
    return scope.builder.convolution(node.name, value, mean, np.zeros(channels), stride, padding, depthwise=True)


def _check_pool(node: Node, size: Sequence[int], window: Size, stride: Size, padding: Padding) -> None:
    """Raise NetworkError for what no pool here does."""
    if any(dilation != 1 for dilation in node.attributes.get("dilations", [1])):
        raise NetworkError("a pool must not be dilated, but is")
    both = (padding[0] + padding[2], padding[1] + padding[3])
    over = [(n + p - w) % s for n, p, w, s in zip(size, both, window, stride, strict=True)]
    if node.attributes.get("ceil_mode", 0) and any(over):
        raise NetworkError(f"a pool must drop what does not fill its window, but has ceil_mode and {over} left over")
    if node.op == "AveragePool" and any(padding) and not node.attributes.get("count_include_pad", 0):
        raise NetworkError(f"a padded average must have count_include_pad, but has padding {padding} without it")


def _global_pool(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    _, _, height, width = maps(value).shape
    kind: Operation = "max_pool" if node.op == "GlobalMaxPool" else "average_pool"
    return scope.builder.pool(node.name, value, kind, (height, width))


def _reduce(scope: _Scope, node: Node) -> Value:
    """A mean or a maximum over all of height and width, wherever these axes are."""
    value = scope.value(node)
    rank = len(value.shape)
    axes = sorted(axis % rank for axis in scope.numbers(node, "axes", 1))
    kept = [axis for axis in range(rank) if axis not in axes]
    if rank not in (3, 4) or len(kept) != 2 or kept[0] != 0:
        raise NetworkError(f"it must reduce height and width of a map, but reduces axes {axes} of shape {value.shape}")
    order = [*kept, *axes]
    ordered = value.rearranged(lambda array: array.transpose(order))
    kind: Operation = "max_pool" if node.op == "ReduceMax" else "average_pool"
    _, _, height, width = maps(ordered).shape
    pooled = scope.builder.pool(node.name, ordered, kind, (height, width))
    shape = [1 if axis in axes else extent for axis, extent in enumerate(value.shape)]
    if not node.attributes.get("keepdims", 1):
        shape = [value.shape[axis] for axis in kept]
    return pooled.rearranged(lambda array: array.reshape(shape))


def _relu(scope: _Scope, node: Node) -> Value:
    return scope.builder.activate(node.name, scope.value(node))


def _clip(scope: _Scope, node: Node) -> Value:
    low, high = (
        float(node.attributes[name]) if name in node.attributes else float(scope.constant(node, index, np.array(default)))
        for name, index, default in (("min", 1, -math.inf), ("max", 2, math.inf))
    )
    if low != 0 or high <= 0:
        raise NetworkError(f"it must clip from 0 up, but clips to {low:g}..{high:g}")
    return scope.builder.activate(node.name, scope.value(node), high if high < np.finfo(np.float32).max else math.inf)


def _quantize(scope: _Scope, node: Node) -> Value:
    """Rounding to steps of a scale. Where these begin at zero, they are a ReLU and a tensor's scale; others are chosen anew."""
    value, scale = scope.value(node), scope.constant(node, 1)
    zero_point = scope.constant(node, 2, np.zeros((), np.uint8))
    if scale.size != 1 or zero_point.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        raise NetworkError(f"activations must have one scale and 8 or 16 bits, but have {scale.size} and {zero_point.dtype}")
    limits = np.iinfo(zero_point.dtype)
    if int(zero_point.reshape(-1)[0]) != limits.min:
        return value
    if limits.bits == 16:
        return scope.builder.activate(node.name, value, float(scale.reshape(-1)[0]) * (limits.max - limits.min))
    return scope.builder.quantised(node.name, value, float(scale.reshape(-1)[0]))


def _batch_norm(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    scale, bias, mean, variance = (scope.constant(node, index).astype(np.float64) for index in range(1, 5))
    gain = scale / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    by_channel = (-1, *(1,) * (len(value.shape) - 2))
    return value.scaled(gain.reshape(by_channel), (bias - mean * gain).reshape(by_channel))


def _arithmetic(scope: _Scope, node: Node) -> Value:
    """Arithmetic with a constant is a gain or an offset; two maps can only be added."""
    if all(name in scope.values for name in node.inputs):
        if node.op != "Add":
            raise NetworkError("one of its inputs must be constant, but none is")
        return _sum(scope, node)
    first = node.inputs[0] in scope.values
    value, constant = scope.value(node, 0 if first else 1), scope.constant(node, 1 if first else 0).astype(np.float64)
    try:
        match node.op:
            case "Add":
                return value.scaled(1, constant)
            case "Sub":
                return value.scaled(1, -constant) if first else value.scaled(-1, constant)
            case "Mul":
                return value.scaled(constant, 0)
    except ValueError:
        raise NetworkError(f"a constant must not enlarge a map, but {constant.shape} does {value.shape}") from None
    if not first or (constant == 0).any():
        raise NetworkError("it must divide by a constant other than 0")
    return value.scaled(1 / constant, 0)


def _sum(scope: _Scope, node: Node) -> Value:
    values = [scope.value(node, index) for index, name in enumerate(node.inputs) if name in scope.values]
    constants = [scope.constants[name].astype(np.float64) for name in node.inputs if name in scope.constants]
    try:
        return scope.builder.add(node.name, values).scaled(1, sum(constants, np.zeros(())))
    except ValueError:
        raise NetworkError(f"a constant must not enlarge a map, but one does {values[0].shape}") from None


def _concat(scope: _Scope, node: Node) -> Value:
    values = [scope.value(node, index) for index in range(len(node.inputs))]
    try:
        return concatenated(values, int(node.attributes["axis"]), scope.builder.shapes)
    except ValueError as error:
        raise NetworkError(f"what it joins must have equal extents along the other axes: {error}") from None


def _same(scope: _Scope, node: Node) -> Value:
    return scope.value(node)


def _flatten(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    axis = int(node.attributes.get("axis", 1)) % (len(value.shape) + 1)
    return value.rearranged(lambda array: array.reshape(math.prod(value.shape[:axis]), -1))


def _reshape(scope: _Scope, node: Node) -> Value:
    value, wanted = scope.value(node), scope.numbers(node, "shape", 1)
    zeros_stay = bool(node.attributes.get("allowzero", 0))
    try:
        shape = [value.shape[axis] if n == 0 and not zeros_stay else n for axis, n in enumerate(wanted)]
        return value.rearranged(lambda array: array.reshape(shape))
    except (ValueError, IndexError):
        raise NetworkError(
            f"a reshape must keep the number of elements, but makes {value.shape} {tuple(wanted)}; export with a batch of 1"
        ) from None


def _squeeze(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    rank = len(value.shape)
    axes = tuple(axis % rank for axis in scope.numbers(node, "axes", 1)) or tuple(i for i, n in enumerate(value.shape) if n == 1)
    return value.rearranged(lambda array: array.reshape([n for axis, n in enumerate(value.shape) if axis not in axes]))


def _unsqueeze(scope: _Scope, node: Node) -> Value:
    axes = tuple(scope.numbers(node, "axes", 1))
    return scope.value(node).rearranged(lambda array: np.expand_dims(array, axes))


def _transpose(scope: _Scope, node: Node) -> Value:
    value = scope.value(node)
    order = node.attributes.get("perm", list(range(len(value.shape)))[::-1])
    return value.rearranged(lambda array: array.transpose(order))


def _pad(scope: _Scope, node: Node) -> Value:
    value, pads = scope.value(node), scope.numbers(node, "pads", 1)
    fill = float(node.attributes.get("value", scope.constant(node, 2, np.zeros(())).reshape(-1)[0]))
    rank = len(value.shape)
    axes = [axis % rank for axis in scope.numbers(node, "axes", 3, range(rank))]
    if node.attributes.get("mode", "constant") != "constant" or fill != 0 or min(pads) < 0:
        raise NetworkError("it must pad with zeros, but does not")
    widths = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        widths[axis] = (before, after)
    return padded(value, widths)


def _shape(scope: _Scope, node: Node) -> Array:
    shape = np.array(scope.value(node).shape, np.int64)
    return shape[node.attributes.get("start", 0) : node.attributes.get("end", len(shape))]


OPERATORS: Mapping[str, Callable[[_Scope, Node], Value | Array]] = {
    "Add": _arithmetic,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Cast": _same,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _same,
    "Div": _arithmetic,
    "Dropout": _same,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Identity": _same,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mul": _arithmetic,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceMax": _reduce,
    "ReduceMean": _reduce,
    "Relu": _relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Squeeze": _squeeze,
    "Sub": _arithmetic,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
