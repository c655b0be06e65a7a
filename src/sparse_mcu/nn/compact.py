"""A pruned network rewritten smaller: what its zeros make superfluous leaves, and every logit stays what it is.

A channel can leave its space (``spaces``) where each convolution and linear layer that reads it either has no weight for it, or
reads a constant from it: then the constant times the weights goes into the bias. A constant other than 0 is not the same at a
border that is padded with zeros, so a padded layer cannot take one up, and the channel stays. Channels that leave can make
others superfluous; the search ends where nothing changes any more. A space keeps at least one channel.

C: channels of a tensor; O, I: output and input channels of a layer.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.nn.spaces import channel_spaces
from sparse_mcu.space.layers import INPUT, LOGITS, Layer

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
VARIES = np.nan  # in place of a channel's constant


def compact(network: FoldedNetwork) -> FoldedNetwork:
    """Return a network with the same layers and logits, and as few channels as its zeros allow."""
    while True:
        spaces = channel_spaces([folded.layer for folded in network])
        constants = _constants(network)
        removable = _removable(network, spaces, constants)
        if not any(channels.any() for channels in removable.values()):
            return network
        kept = {tensor: ~removable[space] for tensor, space in spaces.items()}
        network = tuple(_without(folded, kept, constants) for folded in network)


def _constants(network: FoldedNetwork) -> dict[str, FloatArray]:
    """Return for each tensor, per channel, the value that it has everywhere and for every image, or VARIES; (C,)."""
    constants = {INPUT: np.full(network[0].layer.in_shape[0], VARIES)}
    for folded in network:
        layer, inputs = folded.layer, [constants[name] for name in folded.layer.inputs]
        # A pool keeps a constant; NaN in a sum remains NaN.
        value = np.sum(inputs, axis=0) if folded.weight is None else _constant_sums(folded, inputs[0])
        constants[layer.name] = np.clip(value, 0.0, folded.ceiling) if layer.relu else value  # of NaN: NaN
    return constants


def _constant_sums(folded: FoldedLayer, constants: FloatArray) -> FloatArray:
    """Return the constant sums of a layer with weights before ReLU, VARIES where they depend on the image or the place; (O,)."""
    assert folded.bias is not None
    read = _reads(folded)
    taken = np.where(read, _contributions(folded, constants), 0.0)
    varies = (read & ~_foldable(folded.layer, constants)).any(axis=1)
    return np.where(varies, VARIES, folded.bias + np.nan_to_num(taken).sum(axis=1))


def _foldable(layer: Layer, constants: FloatArray) -> BoolArray:
    """Whether the layer's bias can take up a channel that it reads; (I,)."""
    return constants == 0.0 if any(layer.padding) else ~np.isnan(constants)


def _taps(folded: FoldedLayer) -> FloatArray:
    """Return the weights as (O, I, taps); those of a depthwise layer as if it read all channels."""
    assert folded.weight is not None
    taps = folded.weight.astype(np.float64).reshape(len(folded.weight), -1, folded.layer.kernel[0] * folded.layer.kernel[1])
    return np.eye(len(taps))[:, :, None] * taps if folded.layer.op == "depthwise" else taps


def _reads(folded: FoldedLayer) -> BoolArray:
    """Whether output o has a weight for input i; (O, I)."""
    return np.asarray(_taps(folded).any(axis=2))


def _contributions(folded: FoldedLayer, constants: FloatArray) -> FloatArray:
    """Return what constant inputs add to each sum; (O, I)."""
    return np.asarray(_taps(folded).sum(axis=2) * constants)


def _removable(network: FoldedNetwork, spaces: dict[str, str], constants: dict[str, FloatArray]) -> dict[str, BoolArray]:
    """Return which channels of each space can leave now; (C,)."""
    removable = {space: np.ones(len(constants[space]), dtype=bool) for space in spaces.values()}
    for folded in network:
        layer = folded.layer
        if layer.op in ("conv", "linear"):
            source = layer.inputs[0]
            removable[spaces[source]] &= _foldable(layer, constants[source]) | ~_reads(folded).any(axis=0)
    for tensor in (INPUT, LOGITS):  # the device's input and output
        removable[spaces[tensor]][:] = False
    for channels in removable.values():
        channels[0] &= not channels.all()
    return removable


def _without(folded: FoldedLayer, kept: dict[str, BoolArray], constants: dict[str, FloatArray]) -> FoldedLayer:
    """Return the layer without the channels that leave, their constants taken up by its bias."""
    layer, source = folded.layer, folded.layer.inputs[0]
    inputs, outputs = kept[source], kept[layer.name]
    smaller = replace(
        layer,
        in_shape=(int(inputs.sum()), *layer.in_shape[1:]),
        out_shape=(int(outputs.sum()), *layer.out_shape[1:]),
    )
    if folded.weight is None or folded.bias is None:
        return replace(folded, layer=smaller)
    assert smaller.weight_shape is not None
    step = None if folded.step is None else folded.step[outputs]
    if layer.op == "depthwise":
        return replace(folded, layer=smaller, weight=folded.weight[outputs], bias=folded.bias[outputs], step=step)
    leaving = np.where(inputs, 0.0, np.nan_to_num(constants[source]))  # no weight reads a channel that leaves and varies
    bias = folded.bias + _contributions(folded, leaving).sum(axis=1)
    weight = folded.weight.reshape(len(folded.weight), len(inputs), -1)[outputs][:, inputs].reshape(smaller.weight_shape)
    bias = bias[outputs].astype(np.float32)
    return replace(folded, layer=smaller, weight=np.ascontiguousarray(weight), bias=bias, step=step)
