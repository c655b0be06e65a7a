"""Bayesian pruning: what a posterior over weights costs, samples and removes. ``modules`` puts it into layers.

θ, σ²: mean and variance of a weight's Gaussian posterior, stored as θ and log σ² (additive noise: the gradient of θ then has
low variance). α = σ²/θ²: a weight with a large α is noise. z: a scale per output channel with its own θ and σ², so that whole
channels leave.

References: Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017 (equations 11, 14, 17);
Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015;
Louizos, Ullrich, Welling, "Bayesian compression for deep learning", NIPS 2017 (group normal-Jeffreys).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

K1, K2, K3 = 0.63576, 1.87320, 1.48695
INITIAL_LOG_VARIANCE = -10.0
SQUARE_FLOOR = 1e-8  # added to θ²: the logarithm and its gradient stay finite at 0
LARGEST_LOG_ALPHA = 8.0  # beyond it the KL term is flat, and Adam would turn its vanishing gradient into full steps


def log_alpha(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log α = log σ² - log θ², elementwise."""
    return log_variance - torch.log(mean.square() + SQUARE_FLOOR)


def log_uniform_kl(log_alpha: Tensor) -> Tensor:
    """Return KL(q || log-uniform prior) per weight, up to a constant: 0 where α is infinite (Molchanov, equation 14)."""
    return K1 * torch.sigmoid(-K2 - K3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


def standard_normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, σ²) || N(0, 1)) per weight."""
    return 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance)


def sample_sums(mean: Tensor, variance: Tensor) -> Tensor:
    """Draw sums ~ N(mean, variance) by local reparameterisation; both (B, O, H, W)."""
    deviation = torch.sqrt(variance + SQUARE_FLOOR)  # the gradient of a square root is infinite at 0
    return torch.addcmul(mean, deviation, torch.randn_like(mean))
