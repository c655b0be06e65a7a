"""From the folded float network to the integer graph (docs/integer-arithmetic.md says what the graph computes).

A channel's multiplier is chosen first, and its weights are then quantised with exactly the scale that the multiplier implies, so
rounding the multiplier to 8 bits costs nothing. Each layer is quantised on the integers that the layers before it really write,
and its biases take up the mean error that rounding left (empirical bias correction: Nagel et al., ICCV 2019, section 4.2).
s_x, s_w, s_y: real value of one step of a layer's input, of a channel's weights, of the layer's output. O: output channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import SparseMcuError
from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.fixedpoint import (
    INT32_MAX,
    MAX_CHANNEL_MULTIPLIER,
    Int64Array,
    add_scale,
    average_scale,
    fits_int32,
    largest_shift,
    sum_bounds,
)
from sparse_mcu.quant.floating import channels_last, float_sums, float_tensors
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
from sparse_mcu.quant.interpreter import IntegerArray, UInt8Array, convolution_sums, run, run_op
from sparse_mcu.quant.lift import lift
from sparse_mcu.quant.scales import Tensors, tensor_types
from sparse_mcu.quant.verify import verify
from sparse_mcu.space.layers import INPUT, Layer

CALIBRATION_IMAGES = 256  # on digits the error of the logits falls up to here, and no further; memory grows with it
Float64Array = npt.NDArray[np.float64]


class QuantisationError(SparseMcuError):
    """A network that no integers can stand for, since its weights or activations are not finite."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the logits of an integer graph are from those of the float network, and how often both name the same class."""

    largest: float
    mean_square: float
    agreement: float  # share of images


def quantise(
    network: FoldedNetwork,
    calibration: UInt8Array,  # (N, C, H, W): training images, never test images
) -> IntegerGraph:
    """Return ``network`` as an integer graph, with scales that suit the ``calibration`` images; a few hundred are enough.

    Raises QuantisationError if the network's values on them are not finite.
    """
    images = calibration[:: -(-len(calibration) // CALIBRATION_IMAGES)]
    reference = float_tensors(network, images)
    for name, values in reference.items():
        if not np.isfinite(values).all():
            raise QuantisationError(f"a network's values must be finite, but {name} has some that are not")
    lifted = lift(network, reference)
    if lifted is not network:
        network, reference = lifted, float_tensors(lifted, images)
    types = tensor_types(network, reference)
    integers: dict[str, IntegerArray] = {INPUT: np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
    ops: list[Op] = []
    for folded in network:
        ops.append(_operation(folded, types, integers, reference))
        integers[folded.layer.name] = run_op(ops[-1], integers, types)
    graph = IntegerGraph(tuple(ops), types)
    verify(graph)
    return graph


def difference(network: FoldedNetwork, graph: IntegerGraph, images: UInt8Array) -> Difference:
    """Compare the logits of ``network`` and its integer ``graph`` on ``images`` (N, C, H, W)."""
    expected = float_tensors(network, images)[graph.output][:, 0, 0]
    logits = run(graph, images) * graph.tensors[graph.output].scale
    error = np.abs(logits - expected)
    agreement = np.mean(logits.argmax(axis=1) == expected.argmax(axis=1))
    return Difference(float(error.max()), float(np.square(error).mean()), float(agreement))


def _operation(
    folded: FoldedLayer,
    types: Mapping[str, TensorType],
    integers: Mapping[str, IntegerArray],
    reference: Tensors,
) -> Op:
    layer = folded.layer
    match layer.op:
        case "conv" | "depthwise" | "linear":
            return _corrected(folded, types, integers, reference)
        case "max_pool":
            return MaxPool2d(layer.name, (layer.inputs[0],), layer.kernel)
        case "average_pool":
            halvings = round(math.log2(types[layer.inputs[0]].scale / types[layer.name].scale))
            return AveragePool2d(layer.name, (layer.inputs[0],), layer.kernel, *average_scale(layer.kernel, halvings))
        case "add":
            inputs = [types[name] for name in layer.inputs]
            ratios = [tensor.scale / types[layer.name].scale for tensor in inputs]
            return Add(layer.name, layer.inputs, *add_scale(ratios, inputs))


def _corrected(
    folded: FoldedLayer,
    types: Mapping[str, TensorType],
    integers: Mapping[str, IntegerArray],
    reference: Tensors,
) -> Convolution:
    """Quantise a layer with weights twice: the second time with biases that take up the first one's mean error."""
    source, output = types[folded.layer.inputs[0]], types[folded.layer.name]
    weights = channels_last(folded).astype(np.float64)
    if folded.layer.op != "depthwise":
        weights = np.moveaxis(weights, 0, -1)
    bias = np.zeros(weights.shape[-1]) if folded.bias is None else folded.bias.astype(np.float64)
    largest = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
    # At least the largest / 127, so that weights fit int8.
    step = np.where(largest > 0, largest / 127 if folded.step is None else folded.step.astype(np.float64), 0.0)
    op = _convolution(folded.layer, weights, step, bias, source, output)
    sums = convolution_sums(op, integers[folded.layer.inputs[0]], source) * _sum_scale(op.multiplier, op.shift, output)
    error = (sums - float_sums(folded, reference)).mean(axis=(0, 1, 2))
    return _convolution(folded.layer, weights, step, bias - error, source, output)


def _convolution(
    layer: Layer,
    weights: Float64Array,  # (KH, KW, I, O), or (KH, KW, O) of a depthwise layer
    step: Float64Array,  # (O,): the least s_w; 0 of a channel without weights, which is its bias in steps of the output
    bias: Float64Array,  # (O,)
    source: TensorType,
    output: TensorType,
) -> Convolution:
    """Return the operation with the finest weights whose sums fit int32."""
    ratio = np.where(step > 0, step * source.scale / output.scale, 1.0)
    shift = np.where(step > 0, largest_shift(ratio, MAX_CHANNEL_MULTIPLIER), 0)
    while True:
        multiplier = np.minimum(np.ceil(ratio * 2.0**shift), MAX_CHANNEL_MULTIPLIER).astype(np.int64)
        op = _rounded(layer, weights, bias, multiplier, shift, source, output)
        low, high = sum_bounds(op, source)
        too_fine = ~fits_int32(np.maximum(-low, high), multiplier, shift) & (shift > 0)
        if not too_fine.any():
            return op
        shift = shift - too_fine


def _rounded(
    layer: Layer,
    weights: Float64Array,  # as in _convolution
    bias: Float64Array,  # (O,)
    multiplier: Int64Array,  # (O,)
    shift: Int64Array,  # (O,)
    source: TensorType,
    output: TensorType,
) -> Convolution:
    """Round weights and biases to the scales that the multipliers and shifts imply."""
    sum_scale = _sum_scale(multiplier, shift, output)
    # Weights and biases are clipped only where no multiplier is large enough: there the output saturates long before its sum.
    integers = np.rint(weights * source.scale / sum_scale).clip(-127, 127).astype(np.int8)
    biases = np.rint(bias / sum_scale).clip(-INT32_MAX, INT32_MAX).astype(np.int32)
    scaling = biases, multiplier.astype(np.int32), shift.astype(np.int32), layer.stride, layer.padding
    if layer.op == "depthwise":
        return DepthwiseConv2d(layer.name, (layer.inputs[0],), integers, *scaling)
    return Conv2d(layer.name, (layer.inputs[0],), np.ascontiguousarray(np.moveaxis(integers, -1, 0)), *scaling)


def _sum_scale(multiplier: npt.NDArray[np.integer], shift: npt.NDArray[np.integer], output: TensorType) -> Float64Array:  # (O,)
    """Return the real value of one step of a channel's sum, s_w s_x, from multiplier / 2**shift = s_w s_x / s_y."""
    return multiplier / 2.0**shift * output.scale
