"""Scales with a posterior that stand before or behind a layer's weights, so that whole groups of weights leave together."""

import torch
from torch import Tensor, nn

from sparse_mcu.nn.variational import INITIAL_LOG_VARIANCE, Noise, hold, keep, log_alpha


class Scales(nn.Module):
    """G scales z ~ N(mean, σ²) with a log-uniform prior; each multiplies a channel or an input.

    ``share``: how much the KL divergence of each counts. A scale leaves where its log α exceeds ``threshold``. Training mode
    draws one scale per image, eval mode takes the means of those that stay.
    """

    def __init__(self, count: int, share: float, threshold: float, noise: Noise) -> None:
        super().__init__()
        self.threshold = threshold
        self.noise = noise
        self.mean = nn.Parameter(torch.ones(count))
        self.log_variance = nn.Parameter(torch.full((count,), INITIAL_LOG_VARIANCE))
        self.register_buffer("share", torch.full((count,), share), persistent=False)
        self.register_buffer("mask", None, persistent=False)  # while pruning is fixed: 1 for what stays

    share: Tensor
    mask: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, G, ...) times the scales."""
        if self.training and self.mask is None:
            draw = self.noise.like(self.mean.new_empty(len(x), len(self.mean)))
            factor = torch.addcmul(self.mean, torch.exp(0.5 * self.log_variance), draw)
        else:
            factor = self.effective()[None]
        return x * factor.reshape(*factor.shape, *[1] * (x.dim() - 2))

    def effective(self) -> Tensor:
        """Return the means with 0 for the scales that leave; (G,)."""
        return self.mean * (self._kept() if self.mask is None else self.mask)

    def _kept(self) -> Tensor:
        return (log_alpha(self.mean, self.log_variance) <= self.threshold).to(self.mean.dtype)

    @torch.no_grad()
    def fix_pruning(self) -> None:
        """Set what leaves to 0 and keep it there; what stays trains on without noise."""
        self.mask = self._kept()
        self.mean.copy_(self.effective())

    @torch.no_grad()
    def release_pruning(self) -> None:
        """Let the posterior decide again, as it was fixed."""
        if self.mask is not None:
            keep(self.mean, self.log_variance, self.mask, self.threshold)
        self.mask = None

    def hold_pruning(self) -> list[tuple[nn.Parameter, Tensor]]:
        """See ``WeightedLayer.hold_pruning``."""
        mask = hold(self.mean, self.log_variance, self.threshold)
        return [(self.mean, mask), (self.log_variance, mask)]
