"""Bayesian pruning: what a posterior over weights costs, samples and removes. ``modules`` puts it into layers.

θ, σ²: mean and variance of a weight's Gaussian posterior, stored as θ and log σ² (additive noise: the gradient of θ then has
low variance). α = σ²/θ²: a weight with a large α is noise. z: a scale per output channel with its own θ and σ², so that whole
channels leave.

References: Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017 (equations 11, 14, 17);
Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015;
Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017 (group normal-Jeffreys).
"""

import math
import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_mcu.nn.rounding import FULL_BITS, steps

K1, K2, K3 = 0.63576, 1.87320, 1.48695
INITIAL_LOG_VARIANCE = -10.0
NOISE_POOL = 2**18
SQUARE_FLOOR = 1e-8  # added to θ²: the logarithm and its gradient stay finite at 0
KEPT_MARGIN = 1e-3  # of log α below the threshold, for rounding must not carry it over
HELD_MARGIN = 1.0  # of log α above the threshold
LARGEST_LOG_ALPHA = 8.0  # beyond it the KL term is flat, and Adam would turn its vanishing gradient into full steps


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log α = log σ² - log θ², elementwise."""
    return log_variance - torch.log(mean.square() + SQUARE_FLOOR)


def keep(mean: Tensor, log_variance: Tensor, mask: Tensor, threshold: float) -> None:
    """Bring log α to the threshold, in place, where ``mask`` is 1 and the mean has moved so far that it is above."""
    largest = torch.log(mean.square() + SQUARE_FLOOR) + threshold - KEPT_MARGIN
    log_variance.copy_(torch.where(mask > 0, torch.minimum(log_variance, largest), log_variance))


def never_trained(log_variance: Tensor) -> Tensor:
    """Say of which weights the posterior is as it began: they have not left, however small they are."""
    return log_variance == INITIAL_LOG_VARIANCE


@torch.no_grad()
def hold(mean: Tensor, log_variance: Tensor, threshold: float) -> Tensor:
    """Take the noise from what has left, in place, and no more of it than that it stays away; return 0 there and 1 elsewhere."""
    left = (mean == 0) & ~never_trained(log_variance)
    log_variance.masked_fill_(left, math.log(SQUARE_FLOOR) + threshold + HELD_MARGIN)
    return (~left).to(mean.dtype)


def log_uniform_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q || log-uniform prior) per weight, up to a constant: 0 where α is infinite (Molchanov, equation 14)."""
    divergence: Tensor = _LogUniformKl.apply(mean, log_variance)  # type: ignore[no-untyped-call]
    return divergence


class _LogUniformKl(torch.autograd.Function):
    """k1 s(-k2 - k3 log α) + log(1 + 1/α) / 2, s the logistic function; a gradient by hand takes half the time."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_variance: Tensor) -> Tensor:
        square = mean.square().add_(SQUARE_FLOOR)
        alpha = log_variance - square.log()  # log α
        active = alpha < LARGEST_LOG_ALPHA
        alpha.clamp_(max=LARGEST_LOG_ALPHA)
        falling = torch.sigmoid(-K2 - K3 * alpha)
        slope = K1 * K3 * falling * (falling - 1.0) - 0.5 * torch.sigmoid(-alpha)
        slope.mul_(active)
        ctx.save_for_backward(slope, -2.0 * mean / square)
        return K1 * falling + 0.5 * F.softplus(-alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        slope, alpha_by_mean = ctx.saved_tensors
        by_alpha = gradients[0] * slope
        return by_alpha * alpha_by_mean, by_alpha


def standard_normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, σ²) || N(0, 1)) per weight."""
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)


def suggested_bits(
    weight: Tensor,  # (O, ...), 0 where pruned
    log_variance: Tensor,  # of the same shape
) -> int:
    """Return the fewest of 2, 4 and 8 bits whose rounding adds no more noise than the posterior found harmless.

    Rounding (``rounding.steps``) adds step²/12 to the variance of each weight.
    """
    kept = weight != 0
    harmless = torch.where(kept, log_variance.exp(), 0.0).sum()
    weights = kept.flatten(1).sum(1)  # (O,)
    for bits in (2, 4):
        if (weights * steps(weight, bits).flatten().square() / 12).sum() <= harmless:
            return bits
    return FULL_BITS


class Noise:
    """Standard normal numbers: a pool that is drawn once per ``refresh`` and read from random places.

    On a CPU it costs more to draw a normal number than to compute the sum that it is added to. Draws read in one step overlap
    in parts of the pool at most, shifted against each other, and the pool is drawn anew every epoch.
    """

    def __init__(self) -> None:
        self._pool = torch.empty(0)
        self._places = random.Random(0)

    def refresh(self) -> None:
        """Draw the pool anew, at its next use, from the global generator."""
        self._pool = self._pool[:0]

    def like(self, x: Tensor) -> Tensor:
        """Return normal numbers in the shape and memory format of a dense ``x``; a view of the pool, not to be written to."""
        size = x.numel()
        if len(self._pool) < 2 * size or self._pool.device != x.device:
            self._pool = torch.randn(max(NOISE_POOL, 4 * size), device=x.device)
            self._places.seed(torch.randint(2**62, ()).item())
        place = self._places.randrange(len(self._pool) - size)
        return self._pool.as_strided(x.shape, x.stride(), place)
