"""Sums of layers whose weights have a posterior, drawn by local reparameterisation (Kingma, Salimans, Welling, NIPS 2015)."""

from typing import Any

import torch
from torch import Tensor

from sparse_mcu.nn.operations import apply_weights, weights_gradients
from sparse_mcu.nn.variational import SQUARE_FLOOR, Noise
from sparse_mcu.space.layers import Layer


def drawn_sums(
    layer: Layer,
    x: Tensor,  # (B, C, H, W) as ``operations.padded`` returns it
    weight: Tensor,  # layer.weight_shape: θ
    log_variance: Tensor,  # layer.weight_shape: log σ²
    bias: Tensor | None,  # (O,)
    noise: Noise,
) -> Tensor:
    """Draw the layer's sums (B, O, H', W'): normal, their means the layer of x with θ, their variances that of x² with σ²."""
    drawn: Tensor = _DrawnSums.apply(x, weight, log_variance, bias, layer, noise)  # type: ignore[no-untyped-call]
    return drawn


class _DrawnSums(torch.autograd.Function):
    """One node with a gradient by hand: in small networks it is the number of operations that costs, not their size."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, log_variance: Tensor, bias: Tensor | None, layer: Layer, noise: Noise
    ) -> Tensor:
        mean = apply_weights(layer, x, weight, bias)
        square, variance = x * x, log_variance.exp()
        deviation = apply_weights(layer, square, variance).add_(SQUARE_FLOOR).sqrt_()  # whose gradient is infinite at 0
        draw = noise.like(mean)
        ctx.layer, ctx.has_bias = layer, bias is not None
        ctx.save_for_backward(x, weight, square, variance, deviation, draw)
        return torch.addcmul(mean, deviation, draw)  # not in place: the mean may be a view, the result must not

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, square, variance, deviation, draw = ctx.saved_tensors
        (gradient,) = gradients
        wants_x = ctx.needs_input_grad[0]
        by_x, by_weight, by_bias = weights_gradients(ctx.layer, gradient, x, weight, (wants_x, True, ctx.has_bias))
        by_sums_variance = (gradient * draw).div_(deviation)  # twice the gradient
        by_square, by_variance, _ = weights_gradients(ctx.layer, by_sums_variance, square, variance, (wants_x, True, False))
        assert by_variance is not None
        if by_x is not None and by_square is not None:
            by_x = by_x.addcmul_(x, by_square)
        return by_x, by_weight, by_variance.mul_(variance).mul_(0.5), by_bias, None, None
