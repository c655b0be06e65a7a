"""How windows lie in a map: ONNX's attributes of convolutions and pools in the terms of ``space.layers``.

O, C: output and input channels; KH, KW: kernel height and width.
"""

from collections.abc import Sequence

import numpy as np

from sparse_mcu.quant.onnx.builder import Padding
from sparse_mcu.quant.onnx.model import Node
from sparse_mcu.quant.onnx.value import Float64Array
from sparse_mcu.space.architecture import Size


def dilated(
    weight: Float64Array,  # (O, C, KH, KW)
    dilations: Size,
) -> Float64Array:
    """Return the kernel with the zeros between its taps written out."""
    outputs, channels, height, width = weight.shape
    down, right = dilations
    result = np.zeros((outputs, channels, (height - 1) * down + 1, (width - 1) * right + 1))
    result[:, :, ::down, ::right] = weight
    return result


def ungrouped(
    weight: Float64Array,  # (O, C / group, KH, KW)
    group: int,
) -> Float64Array:  # (O, C, KH, KW)
    """Return the weights with zeros for the channels of other groups."""
    outputs, own = len(weight) // group, weight.shape[1]
    result = np.zeros((len(weight), own * group, *weight.shape[2:]))
    for index in range(group):
        rows = slice(index * outputs, (index + 1) * outputs)
        result[rows, index * own : (index + 1) * own] = weight[rows]
    return result


def padding_of(node: Node, size: Sequence[int], kernel: Size, stride: Size) -> Padding:
    """Return the zeros around the input."""
    mode = node.attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride, strict=True)]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
        return before[0], before[1], after[0], after[1]
    pads = [] if mode == "VALID" else list(node.attributes.get("pads", []))
    half = len(pads) // 2
    return *pair(pads[:half], 0), *pair(pads[half:], 0)


def pair(numbers: Sequence[int], fill: int) -> Size:
    """Return a number per axis, height first; a 1-D operator gives that of the width only."""
    height, width = [fill] * (2 - len(numbers)) + [int(n) for n in numbers]
    return height, width
