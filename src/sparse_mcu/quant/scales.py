"""Type and scale of every tensor of an integer graph, chosen from the values that it takes on calibration images.

A value x of scale s is stored as the integer nearest to x / s, clipped to its type. uint8 holds what is never negative; its scale
minimises the mean squared error of rounding and clipping together. int16 holds what is signed: the logits, and the summands
of an addition. It has steps to spare, so its scale leaves room above the largest calibration value instead.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.quant.floating import FloatArray
from sparse_mcu.quant.graph import INPUT, TensorType
from sparse_mcu.space.layers import Layer

INPUT_SCALE = 1 / 255
HEADROOM = 2.0  # of int16, above the largest magnitude on the calibration images
_COVERAGES = np.geomspace(0.5, 1.0, 32)  # share of the largest value that a uint8 scale may cover
_BINS = 4096  # 16 per step of a uint8

Tensors = Mapping[str, FloatArray]  # each (N, H, W, C): a tensor of the float network on calibration images


def tensor_types(network: FoldedNetwork, reference: Tensors) -> dict[str, TensorType]:
    """Return the type of the input and of what every layer writes; a tensor that is always zero has its input's scale."""
    types = {INPUT: TensorType(_shape(reference[INPUT]), "uint8", INPUT_SCALE)}
    layers = [folded.layer for folded in network]
    given = {folded.layer.name: folded.scale for folded in network if folded.scale is not None}
    signed = signed_layers(layers)
    shared = _summand_scales(layers, signed, given, reference)
    for layer in layers:
        values, input_scale = reference[layer.name], types[layer.inputs[0]].scale
        if layer.op == "max_pool":
            scale = input_scale
        elif layer.op == "average_pool":
            scale = _halved(input_scale, rounding_scale(values))
        elif layer.name in shared:
            scale = shared[layer.name]
        elif layer.name in given and layer.name not in signed:
            scale = given[layer.name]
        else:
            scale = (signed_scale(values) if layer.name in signed else rounding_scale(values)) or input_scale
        types[layer.name] = TensorType(_shape(values), "int16" if layer.name in signed else "uint8", scale)
    return types


def rounding_scale(values: FloatArray) -> float:
    """Return the uint8 scale of least mean squared error for ``values`` >= 0; 0.0 if all are zero."""
    largest = float(values.max())
    if largest <= 0:
        return 0.0
    counts, edges = np.histogram(values, _BINS, (0.0, largest))
    counts[0] -= np.count_nonzero(values == 0)  # zero is exact at any scale, but the middle of its bin is not
    middles = (edges[:-1] + edges[1:]) / 2
    scales = _COVERAGES[:, None] * largest / 255
    errors = np.square(np.minimum(np.rint(middles / scales), 255) * scales - middles) @ counts
    return float(scales[np.argmin(errors), 0])


def signed_scale(*values: FloatArray) -> float:
    """Return the int16 scale that holds all ``values`` with HEADROOM; 0.0 if all are zero."""
    return HEADROOM * max(float(np.abs(v).max()) for v in values) / 32767


def signed_layers(layers: Collection[Layer]) -> set[str]:
    """Return the names of the layers that can write a negative value."""
    signed: set[str] = set()
    for layer in layers:
        weighted = layer.weight_shape is not None
        if not layer.relu and (weighted or signed.intersection(layer.inputs)):
            signed.add(layer.name)
    return signed


def _summand_scales(
    layers: Collection[Layer], signed: set[str], given: Mapping[str, float], reference: Tensors
) -> dict[str, float]:
    """Return the scales of the signed summands of additions, and of the sum where it is signed too.

    The summands of one addition share a scale that is the sum's own, or a power of two times it: then no multiplication is left.
    """
    scales: dict[str, float] = {}
    for layer in layers:
        summands = signed.intersection(layer.inputs)
        if layer.op != "add" or not summands:
            continue
        together = summands | {layer.name} if layer.name in signed else summands
        scale = signed_scale(*(reference[name] for name in together))
        of_sum = 0.0 if layer.name in signed else given.get(layer.name, rounding_scale(reference[layer.name]))
        if scale > 0 and of_sum > 0:
            scale = of_sum * 2.0 ** math.ceil(math.log2(scale / of_sum))
        if scale > 0:
            scales |= dict.fromkeys(together, scale)
    return scales


def _halved(input_scale: float, ideal: float) -> float:
    """Return the input's scale, halved as often as it stays above ``ideal``: means are smaller than what they are taken of.

    Halving is free: it takes bits from the shift of an average pool.
    """
    halvings = math.floor(math.log2(input_scale / ideal)) if 0 < ideal < input_scale else 0
    return math.ldexp(input_scale, -halvings)


def _shape(values: FloatArray) -> tuple[int, int, int]:
    _, height, width, channels = values.shape
    return height, width, channels
