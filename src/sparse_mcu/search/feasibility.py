"""What a network's bytes and cycles must be before it is trained, so that what cannot keep the budget is not trained.

They are bounded by the network from which every weight is gone. Structured pruning can then leave a single channel of each
feature map. Otherwise the maps stay as they are, and RAM is known: single weights that leave may by chance empty a channel, but
that is not to be counted on.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.cost import layer_sizes
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.predict import predict, whole_image_predictions
from sparse_mcu.deploy.target import Target
from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.objectives import Budget
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import Layer, layers
from sparse_mcu.space.memory import peak_activations


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why a network cannot fit: it needs ``needed`` of ``resource`` at least, most of it at the layer ``where``."""

    resource: str  # with its unit
    needed: int
    limit: int
    where: str

    def __str__(self) -> str:
        return f"needs {self.needed} {self.resource} and may have {self.limit}, most of it at '{self.where}'"


class Feasibility:
    """Answers whether an architecture can fit ``budget`` on ``board``."""

    def __init__(self, board: Board, budget: Budget) -> None:
        self._board = board
        self._budget = budget
        self.shortfall = functools.lru_cache(maxsize=64)(self._shortfall)  # the sampler asks, and then the loop

    def _shortfall(self, architecture: Architecture) -> Shortfall | None:
        """Return what ``architecture`` lacks most, or None where it may fit. Raises BoardError for a board without figures."""
        return max(self._shortfalls(architecture), key=lambda lack: lack.needed / lack.limit, default=None)

    def _shortfalls(self, architecture: Architecture) -> Iterator[Shortfall]:
        network, budget = _emptied(architecture), self._budget
        graph = quantise(network, np.zeros((1, *architecture.input_shape), np.uint8))
        ways = whole_image_predictions(graph, Target(self._board))  # streaming takes more flash and cycles
        smallest, fastest = min(ways, key=lambda way: way.least_flash_bytes), min(ways, key=lambda way: way.cycles)
        ram_bytes = min(way.least_ram_bytes for way in ways)
        if ram_bytes > budget.ram_bytes:
            ram_bytes = predict(graph, Target(self._board, budget.ram_bytes)).least_ram_bytes
        if ram_bytes > budget.ram_bytes:
            where = peak_activations(tuple(folded.layer for folded in network)).layer
            yield Shortfall("bytes of RAM", ram_bytes, budget.ram_bytes, where)
        if smallest.least_flash_bytes > budget.flash_bytes:
            largest = max(smallest.parts, key=lambda part: part.flash_bytes)
            yield Shortfall("bytes of flash", smallest.least_flash_bytes, budget.flash_bytes, largest.name)
        if budget.cycles is not None and fastest.cycles > budget.cycles:
            slowest = max(fastest.parts, key=lambda part: part.cycles)
            yield Shortfall("cycles", fastest.cycles, budget.cycles, slowest.name)
        yield from _count_shortfalls(graph, budget)


def _count_shortfalls(graph: IntegerGraph, budget: Budget) -> Iterator[Shortfall]:
    """Yield which of the paper's counts cannot keep their limits."""
    sizes = layer_sizes(graph)
    if budget.working_memory is not None:
        neediest = max(sizes, key=lambda layer: max(layer.working_memory_1, layer.working_memory_2))
        needed = max(neediest.working_memory_1, neediest.working_memory_2)
        if needed > budget.working_memory:
            yield Shortfall("bytes of working memory", needed, budget.working_memory, neediest.name)
    macs = sum(layer.macs for layer in sizes)
    if budget.macs is not None and macs > budget.macs:
        yield Shortfall("multiply-accumulates", macs, budget.macs, max(sizes, key=lambda layer: layer.macs).name)


def nothing_fits(budget: Budget, shortfalls: Sequence[Shortfall]) -> str:
    """Say that no network found fits ``budget``, and what the nearest of them would take."""
    rule = f"a network must fit in {budget}, but none found does"
    if not shortfalls:
        return f"{rule}; allow more RAM or make the inputs smaller"
    nearest = min(shortfalls, key=lambda shortfall: shortfall.needed / shortfall.limit)
    return f"{rule}: the nearest needs {nearest.needed} {nearest.resource}, most of it at '{nearest.where}'; allow as much"


def _emptied(architecture: Architecture) -> FoldedNetwork:
    """Return the network of ``architecture`` when pruning has removed all that it can."""
    network = tuple(FoldedLayer(layer, *_zeros(layer)) for layer in layers(architecture))
    return compact(network) if architecture.training.pruning.method in ("structured", "both") else network


def _zeros(layer: Layer) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Return a weight and a bias of zeros, None for a layer that has none."""
    shape = layer.weight_shape
    return (None, None) if shape is None else (np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))
