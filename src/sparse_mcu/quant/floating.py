"""The folded float network evaluated layer by layer in NumPy: what its integers must come near to.

Tensors are channels last, as in the integer graph. N: images; H, W, C: height, width, channels; O: output channels.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.windows import convolve, windows
from sparse_mcu.space.layers import INPUT

FloatArray = npt.NDArray[np.float32]


def float_tensors(
    network: FoldedNetwork,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
) -> dict[str, FloatArray]:  # each (N, H, W, C)
    """Return what every layer writes, by name, and the input, whose byte b is the real value b / 255."""
    tensors: dict[str, FloatArray] = {INPUT: images.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(255)}
    for folded in network:
        sums = float_sums(folded, tensors)
        tensors[folded.layer.name] = np.clip(sums, 0, np.float32(folded.ceiling)) if folded.layer.relu else sums
    return tensors


def float_sums(folded: FoldedLayer, tensors: Mapping[str, FloatArray]) -> FloatArray:  # (N, H', W', O)
    """Return what the layer computes from ``tensors`` before its ReLU."""
    layer = folded.layer
    inputs = [tensors[name] for name in layer.inputs]
    match layer.op:
        case "conv" | "depthwise" | "linear":
            sums = convolve(inputs[0], channels_last(folded), layer.stride, layer.padding)
            return sums if folded.bias is None else sums + folded.bias
        case "max_pool":
            return np.asarray(windows(inputs[0], layer.kernel, layer.stride).max(axis=(-2, -1)))
        case "average_pool":
            return np.asarray(windows(inputs[0], layer.kernel, layer.stride).mean(axis=(-2, -1)))
        case "add":
            return np.asarray(np.sum(inputs, axis=0))


def channels_last(folded: FoldedLayer) -> FloatArray:
    """Return the weights as the integer graph has them: (O, KH, KW, I), or (KH, KW, C) of a depthwise layer.

    A linear layer reads its map flattened as (C, H, W); here it is a convolution whose kernel is that map.
    """
    assert folded.weight is not None, folded.layer.name
    layer, weight = folded.layer, folded.weight
    if layer.op == "depthwise":
        return weight[:, 0].transpose(1, 2, 0)
    if layer.op == "linear":
        weight = weight.reshape(len(weight), *layer.in_shape)
    return weight.transpose(0, 2, 3, 1)
