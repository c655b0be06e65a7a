"""Weights as few bits hold them: whole multiples of a step per output channel, from -(2^(b-1) - 1) to 2^(b-1) - 1 times it.

With two bits these are -1, 0 and 1. A fourth value, -2, would be one that positive weights lack, would take a bit more of every
weight that is stored with its place, and more than an addition.

Training sees the rounded weights, and its gradients reach those behind them as if nothing had been rounded (straight-through:
Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013; for weights per channel:
Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018; for two
bits: Li, Zhang, Liu, "Ternary weight networks", 2016).
"""

import torch
from torch import Tensor

FULL_BITS = 8  # of a weight of the integer graph: a quantiser rounds to them without training, and loses nothing by it


def steps(weight: Tensor, bits: int) -> Tensor:  # (O, ...) -> (O, 1, ...)
    """Return the step of each output channel; 1 where all weights are 0.

    Its largest weight is the largest that ``bits`` hold; of two bits, rounding has the least squared error.
    """
    magnitude = weight.detach().abs().flatten(1)
    step = _ternary_steps(magnitude) if bits == 2 else magnitude.amax(1) / _largest(bits)
    return torch.where(step > 0, step, 1.0).reshape(-1, *[1] * (weight.dim() - 1))


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return ``weight`` (O, ...) in multiples of its ``steps``."""
    step, largest = steps(weight, bits), _largest(bits)
    return weight + (torch.round(weight.detach() / step).clamp(-largest, largest) * step - weight.detach())


def _largest(bits: int) -> int:
    """The largest multiple that ``bits`` hold."""
    return (1 << bits - 1) - 1


def _ternary_steps(magnitude: Tensor) -> Tensor:  # (O, N) -> (O,)
    """The step s with the least sum of (|w| - s)² over the k largest weights and w² over the others, whatever k is.

    For each k that is their mean m, which takes k m² off the sum of all w²; zeros change nothing (Li et al., 2016, equation 5).
    """
    sums = magnitude.sort(dim=1, descending=True).values.cumsum(1)
    means = sums / torch.arange(1, magnitude.shape[1] + 1, device=magnitude.device)
    return means.gather(1, (sums * means).argmax(1, keepdim=True)).squeeze(1)
