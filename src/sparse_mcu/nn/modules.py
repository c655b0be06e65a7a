"""The layers of a network as modules: sums, then bias or batch norm, then a scale per channel, then ReLU.

What a module holds depends on the pruning method (``Pruning.method``), the symbols are those of ``variational``:

    none            θ
    unstructured    θ, log σ² with a log-uniform prior: single weights leave
    structured      θ, log σ² with a standard normal prior; scales z with a log-uniform one: channels and inputs leave
    both            θ, log σ² and z, each with a log-uniform prior

Training mode draws the sums and scales; eval mode takes their means, without the weights and channels whose log α is above
the threshold. A scale per output channel stands behind the batch norm, so a channel whose scale has left is exactly 0. Where a
fully connected layer reads a map of several places, each of its inputs has a scale too (as in Louizos et al., 2017): otherwise
the inputs are channels of the layer before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_mcu.nn.draw import drawn_sums
from sparse_mcu.nn.folded import Float32Array, FoldedLayer
from sparse_mcu.nn.operations import apply_fixed, apply_weights, padded
from sparse_mcu.nn.rounding import FULL_BITS, rounded, steps
from sparse_mcu.nn.scales import Scales
from sparse_mcu.nn.variational import INITIAL_LOG_VARIANCE, Noise, hold, keep, log_alpha, never_trained, suggested_bits
from sparse_mcu.space.architecture import Pruning
from sparse_mcu.space.layers import Layer

# Larger than PyTorch's 1e-5: a channel that is almost constant on few images is not blown up by 1/sqrt(variance).
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.1


@dataclass(frozen=True, slots=True)
class Shares:
    """How much the KL divergence of a scale counts; 0: there is none."""

    channel: float = 0.0  # of an output channel
    input: float = 0.0


class FixedLayer(nn.Module):
    """A layer without weights."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        """Pool or add: tensors (B, C, H, W) to one (B, C', H', W')."""
        return apply_fixed(self.layer, inputs)

    def fold(self) -> FoldedLayer:
        """Return the layer for quantisation."""
        return FoldedLayer(self.layer, None, None)


class WeightedLayer(nn.Module):
    """A convolution (full or depthwise) or a fully connected layer. O: its output channels.

    ``shares`` says how much the KL divergence of the scale of a channel and of an input counts; 0: they cannot leave, and have
    none. ``bits`` hold a weight on the device.
    """

    def __init__(
        self, layer: Layer, pruning: Pruning, shares: Shares, generator: torch.Generator, noise: Noise, bits: int = FULL_BITS
    ) -> None:
        super().__init__()
        assert layer.weight_shape is not None
        self.layer = layer
        self.bits = bits
        self.threshold = pruning.threshold
        self.noise = noise
        self.sparse = pruning.method in ("unstructured", "both")  # single weights leave
        channels = layer.out_shape[0]
        self.weight = nn.Parameter(_initial_weight(layer, generator))
        self.log_variance = None if pruning.method == "none" else _constant(layer.weight_shape, INITIAL_LOG_VARIANCE)
        self.bias = None if layer.batch_norm else _constant((channels,), 0.0)
        self.gamma = _constant((channels,), 1.0) if layer.batch_norm else None
        self.beta = _constant((channels,), 0.0) if layer.batch_norm else None
        self.register_buffer("mean", torch.zeros(channels) if layer.batch_norm else None)
        self.register_buffer("variance", torch.ones(channels) if layer.batch_norm else None)
        structured = pruning.method in ("structured", "both")
        self.scale = Scales(channels, shares.channel, self.threshold, noise) if structured and shares.channel else None
        inputs = math.prod(layer.in_shape)
        self.input_scale = Scales(inputs, shares.input, self.threshold, noise) if structured and shares.input else None
        # While pruning is fixed: 1 for what stays. Part of no saved state, for the posterior tells it again.
        self.register_buffer("weight_mask", None, persistent=False)
        self.pruning_fixed = False

    mean: Tensor | None
    variance: Tensor | None
    weight_mask: Tensor | None

    def scales(self) -> list[Scales]:
        """Return the scales that the layer has."""
        return [scales for scales in (self.scale, self.input_scale) if scales is not None]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, O, H', W')."""
        y = self.before_relu(x)
        return torch.relu_(y) if self.layer.relu else y

    def before_relu(self, x: Tensor) -> Tensor:
        """Return what the ReLU, if the layer has one, is given."""
        y = self._sums(x)
        if self.gamma is not None:
            y = F.batch_norm(
                y, self.mean, self.variance, self.gamma, self.beta, self.training, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON
            )
        return y if self.scale is None else self.scale(y)

    def scaled(self, x: Tensor) -> Tensor:
        """Return ``x`` times the scales of the inputs, where the layer has any."""
        return x if self.input_scale is None else self.input_scale(x.flatten(1)).reshape(x.shape)

    def _sums(self, x: Tensor) -> Tensor:
        """Return the sums (B, O, H', W') with bias: drawn while the posterior trains, else those of the weights that stay."""
        if self._drawing and self.log_variance is not None:
            scaled = padded(self.layer, self.scaled(x))
            return drawn_sums(self.layer, scaled, self.weight, self.log_variance, self.bias, self.noise)
        weight = self._merged_weight()
        if self.bits < FULL_BITS:
            weight = rounded(weight, self.bits)
        return apply_weights(self.layer, padded(self.layer, x), weight, self.bias)

    def _merged_weight(self) -> Tensor:
        """Return the weights that stay, times the scales of the inputs; shape ``layer.weight_shape``."""
        weight = self.effective_weight()
        return weight if self.input_scale is None else weight * self.input_scale.effective()

    @property
    def _drawing(self) -> bool:
        return self.training and not self.pruning_fixed

    def effective_weight(self) -> Tensor:
        """Return θ with 0 for the weights that leave; shape ``layer.weight_shape``."""
        mask = self.weight_mask if self.pruning_fixed else self._kept_weights()
        return self.weight if mask is None else self.weight * mask

    def _kept_weights(self) -> Tensor | None:
        """1 where log α is at most the threshold, or has yet to be learnt; None where the method removes no single weights."""
        if not self.sparse or self.log_variance is None:
            return None
        stays = (log_alpha(self.weight, self.log_variance) <= self.threshold) | never_trained(self.log_variance)
        return stays.to(self.weight.dtype)

    @torch.no_grad()
    def fix_pruning(self) -> None:
        """Set what leaves to 0 and keep it there; what stays trains on without noise. Nothing changes where that is so."""
        if self.pruning_fixed:
            return
        self.weight_mask = self._kept_weights()
        self.pruning_fixed = True
        self.weight.copy_(self.effective_weight())
        for scales in self.scales():
            scales.fix_pruning()

    @torch.no_grad()
    def release_pruning(self) -> None:
        """Let the posterior decide again. Variances shrink where they must, so that it decides as it was fixed."""
        if self.log_variance is not None and self.weight_mask is not None:
            keep(self.weight, self.log_variance, self.weight_mask, self.threshold)
        for scales in self.scales():
            scales.release_pruning()
        self.weight_mask = None
        self.pruning_fixed = False

    def hold_pruning(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Let what has left stay away while the posterior trains on what is left.

        Returns parameters with masks of their shapes, 0 where their gradients must not reach them. What has left would come back
        at random otherwise, for Adam makes full steps of the smallest gradients; and its noise would drown what is left.
        """
        held = [pair for scales in self.scales() for pair in scales.hold_pruning()]
        if self.sparse and self.log_variance is not None:
            mask = hold(self.weight, self.log_variance, self.threshold)
            held += [(self.weight, mask), (self.log_variance, mask)]
        return held

    @torch.no_grad()
    def suggested_bits(self) -> int:
        """Return the bits per weight that the posterior asks for; 8 without one."""
        return 8 if self.log_variance is None else suggested_bits(self.effective_weight(), self.log_variance)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor]:
        """Return factor and bias (O,), float64: eval mode makes factor * sums + bias of the sums of the weights."""
        factor = torch.ones(len(self.weight), dtype=torch.float64, device=self.weight.device)
        bias = torch.zeros_like(factor) if self.bias is None else self.bias.double()
        if self.gamma is not None and self.beta is not None and self.mean is not None and self.variance is not None:
            factor = self.gamma.double() / torch.sqrt(self.variance.double() + BATCH_NORM_EPSILON)
            bias = self.beta.double() - self.mean.double() * factor
        scale = 1.0 if self.scale is None else self.scale.effective().double()
        return factor * scale, bias * scale

    @torch.no_grad()
    def fold(self) -> FoldedLayer:
        """Return the layer in eval mode as plain weights and a bias; computed in float64."""
        factor, bias = self.affine()
        weight, step = self._merged_weight().double(), None
        if self.bits < FULL_BITS:
            step = _float32(steps(weight, self.bits).flatten() * factor.abs())
            weight = rounded(weight, self.bits)
        weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        return FoldedLayer(self.layer, _float32(weight), _float32(bias), step=step)


def _initial_weight(layer: Layer, generator: torch.Generator) -> Tensor:
    """He et al., 2015: the variance of the sums is kept, or doubled where a ReLU takes half of it away."""
    assert layer.weight_shape is not None
    weight = torch.empty(layer.weight_shape)
    return nn.init.kaiming_normal_(weight, nonlinearity="relu" if layer.relu else "linear", generator=generator)


def _constant(shape: Sequence[int], value: float) -> nn.Parameter:
    return nn.Parameter(torch.full(tuple(shape), value))


def _float32(x: Tensor) -> Float32Array:
    return x.to("cpu", torch.float32).numpy().copy(order="C")
