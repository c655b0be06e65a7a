"""An architecture as a trainable network. It is built by walking ``space.layers``, as the cost and the integer graph are."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.nn.modules import FixedLayer, Shares, WeightedLayer
from sparse_mcu.nn.rounding import FULL_BITS
from sparse_mcu.nn.spaces import channel_spaces, weights_per_channel
from sparse_mcu.nn.variational import Noise, log_uniform_kl, standard_normal_kl
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import INPUT, LOGITS, Layer, layers

# Of the number of weights that leave with a channel: a strength then means about as much for every pruning method.
SHARE_PER_ROOT, LARGEST_SHARE = 1.5, 50.0
END_BITS = 4  # at the ends of a network two cost more accuracy than in all layers between them

Weights = dict[str, npt.NDArray[np.float32]]
"""All that a network has learnt, as "layer.part"; parts are named in ``modules.WeightedLayer``. Saved as safetensors."""


class Network(nn.Module):
    """The network of ``architecture``, with fresh weights drawn from ``seed``."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.layers = layers(architecture)
        self.noise = Noise()
        generator, training = torch.Generator().manual_seed(seed), architecture.training
        shares, bits = _scale_shares(self.layers), _weight_bits(self.layers, training.weight_bits)
        self.operations = nn.ModuleList(
            WeightedLayer(layer, training.pruning, shares[layer.name], generator, self.noise, bits[layer.name])
            if layer.weights
            else FixedLayer(layer)
            for layer in self.layers
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W), float32 in [0, 1], to logits (B, classes)."""
        dropout = self.architecture.training.dropout
        tensors = {INPUT: x}
        for layer, operation in zip(self.layers, self.operations, strict=True):
            inputs = [tensors[name] for name in layer.inputs]
            if layer.op == "linear" and self.training and dropout > 0:
                inputs = [F.dropout(inputs[0], dropout)]
            tensors[layer.name] = operation(*inputs)
        return tensors[LOGITS].flatten(1)

    def weighted(self) -> Iterator[WeightedLayer]:
        """Yield the layers with weights, in the order in which they run."""
        return (operation for operation in self.operations if isinstance(operation, WeightedLayer))

    def kl(self) -> Tensor:
        """Return the KL divergence of the posterior from its prior for the whole network, in nats; 0 without pruning.

        Each scale counts ``share`` times. The terms are computed on all layers at once: in small networks the number of
        operations is what costs.
        """
        layers = list(self.weighted())
        scaled = [scales for layer in layers for scales in layer.scales()]
        total = torch.zeros((), device=layers[0].weight.device)
        if self.architecture.training.pruning.method != "none":
            weights, log_variances = _joined(layers, "weight"), _joined(layers, "log_variance")
            divergence = log_uniform_kl if layers[0].sparse else standard_normal_kl
            total = total + divergence(weights, log_variances).sum()
        if scaled:
            divergences = log_uniform_kl(_joined(scaled, "mean"), _joined(scaled, "log_variance"))
            total = total + torch.dot(divergences, _joined(scaled, "share"))
        return total

    def fix_pruning(self) -> None:
        """Set what the posterior would remove to 0 and keep it there; training goes on without noise."""
        for layer in self.weighted():
            layer.fix_pruning()

    def release_pruning(self) -> None:
        """Let the posterior decide again what leaves: the same that was fixed, until it is trained on."""
        for layer in self.weighted():
            layer.release_pruning()

    def hold_pruning(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Let what has left stay away while the posterior trains on; see ``WeightedLayer.hold_pruning``."""
        return [pair for layer in self.weighted() for pair in layer.hold_pruning()]

    @torch.no_grad()
    def nonzero_weights(self) -> int:
        """Count the weights that stay, as ``fold`` returns them, biases not counted."""
        return sum(int(np.count_nonzero(folded.weight)) for folded in self.fold() if folded.weight is not None)

    def fold(self) -> FoldedNetwork:
        """Return the pruned network in eval mode as plain arrays: scales and batch norm folded, superfluous channels left out."""
        return compact(self.fold_layers())

    def fold_layers(self) -> FoldedNetwork:
        """Return every layer folded, at its full size."""
        return tuple(op.fold() for op in self.operations if isinstance(op, WeightedLayer | FixedLayer))

    def weights(self) -> Weights:
        """Return a copy of all parameters and batch norm statistics, for ``load`` and ``inherit``."""
        return {name: tensor.detach().cpu().numpy().copy(order="C") for name, tensor in self._named().items()}

    @torch.no_grad()
    def load(self, weights: Weights) -> None:
        """Take ``weights`` over. Raises ArchitectureError unless names and shapes are exactly this network's."""
        named = self._named()
        if weights.keys() != named.keys():
            odd = sorted(weights.keys() ^ named.keys())[0]
            where = "has no such part" if odd in weights else "needs it"
            raise ArchitectureError(f"weights must fit their architecture, but {odd!r} does not: the architecture {where}")
        for name, tensor in named.items():
            shape = tuple(tensor.shape)
            if weights[name].shape != shape:
                raise ArchitectureError(
                    f"weights must fit their architecture, but {name!r} is {weights[name].shape} and must be {shape}"
                )
            tensor.copy_(torch.tensor(weights[name]))

    def _named(self) -> dict[str, Tensor]:
        named = {}
        for layer in self.weighted():
            named.update({f"{layer.layer.name}.{part}": tensor for part, tensor in layer.state_dict().items()})
        return named


def _joined(modules: Iterable[nn.Module], part: str) -> Tensor:
    """Return one part of all ``modules`` as one vector."""
    return torch.cat([getattr(module, part).flatten() for module in modules])


def _weight_bits(layers: Sequence[Layer], asked: int) -> dict[str, int]:
    """Return by layer the bits that hold a weight on the device, where θ asks for ``asked``.

    Depthwise layers, whose weights are few, are stored in whole bytes. The first layer and those that make the logits, or what
    is summed to them, have END_BITS or more.
    """
    weighted, last = [layer for layer in layers if layer.weights], layers[-1]
    ends = {weighted[0].name, *(last.inputs if last.op == "add" else (last.name,))}
    bits = {layer.name: max(asked, END_BITS) if layer.name in ends else asked for layer in weighted}
    return bits | {layer.name: FULL_BITS for layer in weighted if layer.op == "depthwise"}


def _scale_shares(layers: Sequence[Layer]) -> dict[str, Shares]:
    """Return how much the divergence of a scale counts, for each layer; 0 where there is none, for its channels cannot leave.

    The bound counts a scale once, however much depends on it: a few nats against all that a channel contributes, which takes
    very long trainings to show. Here that of a channel counts in proportion to the square root of the number of weights that
    leave with it, within limits: in a large network a layer that has many per channel would leave as good as whole. An input of
    a fully connected layer takes nothing but its weights along, and counts once.
    """
    spaces, leaving = channel_spaces(layers), weights_per_channel(layers)
    fixed = (spaces[INPUT], spaces[LOGITS])
    return {
        layer.name: Shares(
            channel=0.0 if spaces[layer.name] in fixed else min(SHARE_PER_ROOT * math.sqrt(leaving[layer.name]), LARGEST_SHARE),
            input=1.0 if layer.op == "linear" and layer.kernel != (1, 1) else 0.0,
        )
        for layer in layers
    }
