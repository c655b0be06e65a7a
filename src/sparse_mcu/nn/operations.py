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
    return F.conv2d(x, weight, bias, layer.stride, _even_padding(layer), groups=_groups(layer))


def weights_gradients(
    layer: Layer,
    gradient: Tensor,  # (B, O, H', W')
    x: Tensor,  # (B, C, H, W) as ``apply_weights`` was given it
    weight: Tensor,  # layer.weight_shape
    wanted: tuple[bool, bool, bool],  # of x, weight and bias
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of what ``apply_weights`` was given, from that of what it returned; None where not wanted."""
    if layer.op == "linear":
        flat = gradient.flatten(1)
        return (
            (flat @ weight).reshape(x.shape) if wanted[0] else None,
            flat.T @ x.flatten(1) if wanted[1] else None,
            flat.sum(0) if wanted[2] else None,
        )
    padding, groups = _even_padding(layer), _groups(layer)
    biases = [len(weight)] if wanted[2] else None
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient, x, weight, biases, layer.stride, padding, (1, 1), False, (0, 0), groups, wanted
    )
    return found


def _groups(layer: Layer) -> int:
    return layer.in_shape[0] if layer.op == "depthwise" else 1


def _even_padding(layer: Layer) -> tuple[int, int]:
    """Return the rows and columns of zeros that a convolution adds on both sides; what is uneven, ``padded`` has added."""
    top, left, bottom, right = layer.padding
    return (top, left) if (top, left) == (bottom, right) else (0, 0)


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
