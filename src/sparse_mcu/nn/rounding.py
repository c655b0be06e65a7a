"""Weights as few bits hold them: whole multiples of a step per output channel, from -(2^(b-1) - 1) to 2^(b-1) - 1 times it.

Training sees the rounded weights, and its gradients reach those behind them as if nothing had been rounded (straight-through:
Bengio, Léonard, Courville, "Estimating or propagating gradients through stochastic neurons", 2013; for weights per channel:
Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018).
"""

import torch
from torch import Tensor

FULL_BITS = 8  # of a weight of the integer graph: a quantiser rounds to them without training, and loses nothing by it


def steps(weight: Tensor, bits: int) -> Tensor:  # (O, ...) -> (O, 1, ...)
    """Return the step of each output channel: its largest weight is the largest that ``bits`` hold; 1 where all are 0."""
    largest = weight.detach().abs().flatten(1).amax(1)
    step = torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)
    return step.reshape(-1, *[1] * (weight.dim() - 1))


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return ``weight`` (O, ...) in multiples of its ``steps``."""
    step = steps(weight, bits)
    return weight + (torch.round(weight.detach() / step) * step - weight.detach())
