"""What a network's bytes must be before it is trained, so that what cannot fit is not trained.

Without structured pruning the feature maps stay as they are: RAM is that of the dense network (single weights that leave may by
chance empty a channel, which is not to be counted on), and flash is at least what is left when every weight is gone. Structured
pruning may remove any channel, so nothing is known.
"""

from dataclasses import dataclass

import numpy as np

from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.predict import predict
from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.objectives import Budget
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import layers
from sparse_mcu.space.memory import peak_activations


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a network cannot fit: it needs ``needed`` bytes of ``memory`` at least, most of it at the layer ``where``."""

    memory: str
    needed: int
    limit: int
    where: str


class Feasibility:
    """Answers whether an architecture can fit ``budget`` on ``board``."""

    def __init__(self, board: Board, budget: Budget) -> None:
        self._board = board
        self._budget = budget

    def shortfall(self, architecture: Architecture) -> Shortfall | None:
        """Return why ``architecture`` cannot fit, or None where it may. Raises BoardError for a board without figures."""
        if architecture.training.pruning.method in ("structured", "both"):
            return None
        network = layers(architecture)
        emptied = tuple(FoldedLayer(layer, *_nothing(layer.weight_shape)) for layer in network)
        prediction = predict(quantise(emptied, np.zeros((1, *architecture.input_shape), np.uint8)), self._board)
        if prediction.ram_bytes > self._budget.ram_bytes:
            return Shortfall("RAM", prediction.ram_bytes, self._budget.ram_bytes, peak_activations(network).layer)
        if prediction.flash_bytes > self._budget.flash_bytes:
            largest = max(prediction.parts, key=lambda part: part.flash_bytes)
            return Shortfall("flash", prediction.flash_bytes, self._budget.flash_bytes, largest.name)
        return None


def _nothing(shape: tuple[int, ...] | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the weight and bias of a layer from which everything was pruned; None for a layer without weights."""
    if shape is None:
        return None, None
    return np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
