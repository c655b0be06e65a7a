"""What each kind of layer computes, on float tensors (B, C, H, W). The only place in ``nn`` that looks at ``Layer.op``."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_mcu.space.layers import Layer


def padded(layer: Layer, x: Tensor) -> Tensor:
    """Return ``x`` with the layer's zeros around it where they are uneven; convolutions pad evenly themselves."""
    top, left, bottom, right = layer.padding
    return x if (top, left) == (bottom, right) else F.pad(x, (left, right, top, bottom))


def apply_weights(
    layer: Layer,
    x: Tensor,  # (B, C, H, W) as ``padded`` returns it
    weight: Tensor,  # layer.weight_shape
    bias: Tensor | None = None,  # (O,)
) -> Tensor:
    """Return the layer's sums (B, O, H', W'), before batch norm and ReLU."""
    if layer.op == "linear":
        return F.linear(x.flatten(1), weight, bias)[:, :, None, None]
    groups = layer.in_shape[0] if layer.op == "depthwise" else 1
    top, left, bottom, right = layer.padding
    even = (top, left) if (top, left) == (bottom, right) else (0, 0)
    return F.conv2d(x, weight, bias, layer.stride, even, groups=groups)


def apply_fixed(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Return the output of a layer without weights: a pool, or the sum of its inputs with an optional ReLU."""
    if layer.op == "max_pool":
        return F.max_pool2d(inputs[0], layer.kernel, layer.stride)
    if layer.op == "average_pool":
        return F.avg_pool2d(inputs[0], layer.kernel, layer.stride)
    total = inputs[0] + inputs[1]
    for term in inputs[2:]:
        total = total + term
    return torch.relu(total) if layer.relu else total
