"""Signed tensors as bytes: a network whose convolutions and pools read what may be negative, rewritten so that none does.

Convolutions and pools of the integer graph read uint8. Where one reads a signed tensor y, the layer that writes y adds a
constant c to each channel, the magnitude of the least y on the calibration images, and the readers take c away again: a
convolution in its bias, since sum w (y + c) = sum w y + c sum w; pools let it through; an addition adds up those of its inputs.
Values stay what they were, but what is below -c is cut off, as a uint8 scale cuts off what is above its range.
O, C: output and input channels of a layer.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import NetworkError
from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.floating import FloatArray
from sparse_mcu.quant.scales import signed_layers
from sparse_mcu.space.layers import INPUT

Float64Array = npt.NDArray[np.float64]


def lift(
    network: FoldedNetwork,
    reference: Mapping[str, FloatArray],  # what each layer writes, on calibration images
) -> FoldedNetwork:
    """Return ``network`` with constants added to and taken from its signed tensors; itself where nothing needs that.

    Raises NetworkError where a layer pads a signed tensor: its zeros would have to be c.
    """
    lifted = _lifted(network)
    if not lifted:
        return network
    constants: dict[str, Float64Array] = {INPUT: np.zeros(network[0].layer.in_shape[0])}
    layers: list[FoldedLayer] = []
    for folded in network:
        below = [constants[name] for name in folded.layer.inputs]
        name = folded.layer.name
        if folded.weight is not None:
            own = np.maximum(-reference[name].min(axis=(0, 1, 2)).astype(np.float64), 0) if name in lifted else None
            layers.append(_weighted(folded, below[0], own))
            constants[name] = np.zeros(folded.layer.out_shape[0]) if own is None else own
        elif folded.layer.op == "add" and np.any(below) and (folded.layer.relu or name not in lifted):
            layers += _settled(folded, np.sum(below, axis=0))
            constants[name] = np.zeros(folded.layer.out_shape[0])
        else:
            layers.append(folded)
            constants[name] = np.sum(below, axis=0)
    return tuple(layers)


def _lifted(network: FoldedNetwork) -> set[str]:
    """Names of the signed layers that a convolution or a pool reads, directly or through pools and additions."""
    signed = signed_layers([folded.layer for folded in network])
    lifted: set[str] = set()
    for folded in reversed(network):
        layer = folded.layer
        if layer.op != "add" or layer.name in lifted:
            lifted |= signed.intersection(layer.inputs)
    return lifted


def _weighted(folded: FoldedLayer, below: Float64Array, own: Float64Array | None) -> FoldedLayer:
    """Take ``below`` (C,) from the bias and add the layer's ``own`` constant (O,) to it."""
    layer, weight = folded.layer, folded.weight
    assert weight is not None
    if np.any(below) and any(layer.padding):
        raise NetworkError(
            f"a padded tensor must not be negative, but {layer.name!r} pads {layer.inputs[0]!r}, which falls to "
            f"{-below.max():.3g}; put a ReLU before it, or train it without padding"
        )
    channels = 1 if layer.op == "depthwise" else len(below)
    sums = weight.astype(np.float64).reshape(len(weight), channels, -1).sum(axis=2)
    taken = sums[:, 0] * below if layer.op == "depthwise" else sums @ below
    bias = (0 if folded.bias is None else folded.bias) - taken + (0 if own is None else own)
    if own is None:
        return replace(folded, bias=bias.astype(np.float32))
    return replace(folded, layer=replace(layer, relu=True), bias=bias.astype(np.float32))


def _settled(folded: FoldedLayer, constant: Float64Array) -> tuple[FoldedLayer, FoldedLayer]:
    """Return the addition as it comes, and a layer that takes the ``constant`` (C,) from it before its ReLU."""
    layer = folded.layer
    raw = replace(layer, name=f"{layer.name}.lifted", relu=False)
    exact = replace(layer, op="depthwise", inputs=(raw.name,))
    ones = np.ones((len(constant), 1, 1, 1), np.float32)
    return FoldedLayer(raw, None, None), replace(folded, layer=exact, weight=ones, bias=-constant.astype(np.float32))
