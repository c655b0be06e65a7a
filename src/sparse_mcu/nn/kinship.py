"""What a child's layers, channels and maps were in its parent.

Layers are matched (``align``); every channel of the child gets an origin, a channel of the parent or none (NEW). Of a narrowed
layer the channels stay that move the output most. ``inherit`` copies weights along these origins, ``reconstruct`` fits to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparse_mcu.nn.align import match
from sparse_mcu.nn.folded import FoldedNetwork
from sparse_mcu.nn.modules import WeightedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.spaces import channel_spaces
from sparse_mcu.space.layers import INPUT, Layer

NEW = -1
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.intp]
Cells = list[tuple[float, float]]  # of a map's rows and columns, in pixels of the input: where the first begins, how wide each is


class Kinship:
    """How the layers of ``child`` descend from those of ``parent``."""

    def __init__(self, child: Network, parent: Network) -> None:
        matched = match(child.architecture, parent.architecture)
        modules = {module.layer.name: module for module in parent.weighted()}
        self.twins: dict[str, WeightedLayer] = {name: modules[twin] for name, twin in matched.items()}
        self._spaces, self._parent_spaces = channel_spaces(child.layers), channel_spaces(parent.layers)
        self._origins = _origins(child.layers, self._spaces, matched, parent)
        self._cells, self._parent_cells = _cells(child.layers), _cells(parent.layers)

    def origin(self, tensor: str) -> "Origin":
        """Return where the channels of one of the child's tensors come from."""
        return self._origins[self._spaces[tensor]]

    def rows(self, layer: Layer) -> IntArray:  # (O,)
        """Return which of its twin's outputs each output of ``layer`` is, or NEW."""
        twin = self.twins[layer.name].layer
        return self._channels(layer.name, twin.name, layer.out_shape[0], twin.out_shape[0])

    def columns(self, layer: Layer) -> IntArray:  # (I,)
        """Return which of its twin's inputs each input of ``layer`` is, or NEW."""
        twin = self.twins[layer.name].layer
        return self._channels(layer.inputs[0], twin.inputs[0], layer.in_shape[0], twin.in_shape[0])

    def read(self, layer: Layer) -> tuple[Cells, Cells]:
        """Return the cells of the maps that ``layer`` and its twin read."""
        return self._cells[layer.inputs[0]], self._parent_cells[self.twins[layer.name].layer.inputs[0]]

    def written(self, layer: Layer) -> tuple[Cells, Cells]:
        """Return the cells of the maps that ``layer`` and its twin write."""
        return self._cells[layer.name], self._parent_cells[self.twins[layer.name].layer.name]

    def reads_others(self, layer: Layer) -> bool:
        """Say whether ``layer`` reads channels that its twin did not: the zeros of that one's weights mean nothing here."""
        twin = self.twins.get(layer.name)
        return twin is not None and self.origin(layer.inputs[0]).space != self._parent_spaces[twin.layer.inputs[0]]

    def _channels(self, tensor: str, parents_tensor: str, count: int, parents_count: int) -> IntArray:
        """Return the origin in the parent's tensor of each channel of the child's; by position where they are unrelated."""
        origin = self.origin(tensor)
        if origin.space == self._parent_spaces[parents_tensor]:
            return origin.channels
        return np.where(np.arange(count) < parents_count, np.arange(count), NEW)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the channels of a space come from: a space of the parent (None: nowhere), and one of its channels or NEW for each."""

    space: str | None
    channels: IntArray


def _origins(layers: Sequence[Layer], spaces: dict[str, str], matched: dict[str, str], parent: Network) -> dict[str, Origin]:
    """Return the origin of every space of the child."""
    parent_spaces = channel_spaces(parent.layers)
    parent_layers = {layer.name: layer for layer in parent.layers}
    importance = _Importance(parent.fold_layers(), parent_spaces)
    origins = {INPUT: Origin(INPUT, np.arange(parent.architecture.input_shape[0]))}
    for layer in layers:
        space, count = spaces[layer.name], layer.out_shape[0]
        if space in origins:
            continue
        twins = [matched[other.name] for other in layers if spaces[other.name] == space and other.name in matched]
        if twins:
            source = Origin(parent_spaces[twins[0]], np.arange(parent_layers[twins[0]].out_shape[0]))
        elif layer.op == "linear":
            source = Origin(None, np.empty(0, dtype=np.intp))
        else:
            source = origins[spaces[layer.inputs[0]]]
        origins[space] = Origin(source.space, _chosen(source, count, importance))
    return origins


def _chosen(source: Origin, count: int, importance: "_Importance") -> IntArray:
    """Return ``count`` of the channels of ``source``: all and NEW ones, or the most important in their order."""
    missing = count - len(source.channels)
    if missing >= 0:
        return np.append(source.channels, np.full(missing, NEW)).astype(np.intp)
    assert source.space is not None
    worth = np.where(source.channels == NEW, -np.inf, importance.of(source.space)[source.channels])
    return source.channels[np.sort(np.argsort(-worth, kind="stable")[:count])]


@dataclass(slots=True)
class _Importance:
    """How much the channels of the parent move what follows them: magnitude of what writes times magnitude of what reads them."""

    folded: FoldedNetwork
    spaces: dict[str, str]
    known: dict[str, FloatArray] = field(default_factory=dict)

    def of(self, space: str) -> FloatArray:
        """Return the importance of the channels of ``space``; (C,)."""
        if space not in self.known:
            self.known[space] = self._computed(space)
        return self.known[space]

    def _computed(self, space: str) -> FloatArray:
        written = read = 0.0
        between = 1.0
        for folded in self.folded:
            layer = folded.layer
            if folded.weight is None:
                continue
            magnitude = np.abs(folded.weight).reshape(len(folded.weight), -1, math.prod(layer.kernel)).sum(axis=2)  # (O, I)
            if layer.op == "depthwise":
                between = between * magnitude[:, 0] if self.spaces[layer.name] == space else between
                continue
            written = written + magnitude.sum(1) if self.spaces[layer.name] == space else written
            read = read + magnitude.sum(0) if self.spaces[layer.inputs[0]] == space else read
        return np.asarray(written * between * read)


def _cells(layers: Sequence[Layer]) -> dict[str, Cells]:
    """Return which part of the input each cell of every map shows: as wide as its stride, around the middle of its window."""
    cells: dict[str, Cells] = {INPUT: [(0.0, 1.0)] * 2}
    for layer in layers:
        cells[layer.name] = []
        sizes = zip(cells[layer.inputs[0]], layer.kernel, layer.stride, layer.padding[:2], strict=True)
        for (begin, width), kernel, stride, padding in sizes:
            middle = begin + width * (kernel / 2 - padding)
            cells[layer.name].append((middle - width * stride / 2, width * stride))
    return cells
