"""Signed tensors as bytes: a network whose convolutions and pools read what may be negative, rewritten so that none does.

Convolutions and pools of the integer graph read uint8. Where one reads a signed tensor y, the layer that writes y adds a
constant c to each channel, the magnitude of the least y on the calibration images, and the readers take c away again: a
convolution in its bias, since sum w (y + c) = sum w y + c sum w; pools let it through; an addition adds up those of its inputs.
Values stay what they were, but what is below -c is cut off, as a uint8 scale cuts off what is above its range.

Padding is zeros, and those of y + c stand for -c. A convolution that pads y therefore reads one channel more, which is m
everywhere inside and, like all padding, 0 outside; its weights there are -c sum w / m, tap by tap, in place of the bias.
O, C: output and input channels of a layer.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.floating import FloatArray
from sparse_mcu.quant.scales import signed_layers
from sparse_mcu.space.layers import INPUT, Layer

Float64Array = npt.NDArray[np.float64]


def lift(
    network: FoldedNetwork,
    reference: Mapping[str, FloatArray],  # what each layer writes, on calibration images
) -> FoldedNetwork:
    """Return ``network`` with constants added to and taken from its signed tensors; itself where nothing needs that."""
    lifted = _lifted(network)
    if not lifted:
        return network
    rewriting = _Rewriting(network, reference)
    for folded in network:
        rewriting.append(folded, folded.layer.name in lifted)
    return tuple(rewriting.layers.values())


def _lifted(network: FoldedNetwork) -> set[str]:
    """Names of the signed layers that a convolution or a pool reads, directly or through pools and additions.

    An addition that reads one of them reads no other signed tensors: its sum is read before the constant is taken away again.
    """
    layers = [folded.layer for folded in network]
    signed = signed_layers(layers)
    lifted: set[str] = set()
    settled = False
    while not settled:
        before = len(lifted)
        for layer in layers:
            if layer.op != "add" or layer.name in lifted or lifted.intersection(layer.inputs):
                lifted |= signed.intersection(layer.inputs)
            if layer.op in ("max_pool", "average_pool"):
                lifted |= signed & {layer.name}
        settled = len(lifted) == before
    return lifted


@dataclass(frozen=True, slots=True)
class _Marked:
    """A tensor with one channel more, which is ``mark`` everywhere."""

    name: str
    mark: float


class _Rewriting:
    """The layers rewritten so far, by name, and the constant (C,) in what each writes."""

    def __init__(self, network: FoldedNetwork, reference: Mapping[str, FloatArray]) -> None:
        self.layers: dict[str, FoldedLayer] = {}
        self.constants: dict[str, Float64Array] = {INPUT: np.zeros(network[0].layer.in_shape[0])}
        self.reference = reference
        self.readers = Counter(name for folded in network for name in folded.layer.inputs)
        self.marked: dict[str, _Marked] = {}

    def append(self, folded: FoldedLayer, lifted: bool) -> None:
        """Append ``folded``, rewritten for the constants in its inputs; where ``lifted``, its output gets one too."""
        name = folded.layer.name
        below = [self.constants[source] for source in folded.layer.inputs]
        if folded.weight is not None:
            own = np.maximum(-self.reference[name].min(axis=(0, 1, 2)).astype(np.float64), 0) if lifted else None
            if np.any(below) and any(folded.layer.padding):
                folded = _with_mark(folded, below[0], self._mark(folded.layer.inputs[0]))
                below = [np.zeros(folded.layer.in_shape[0])]
            self.layers[name] = _weighted(folded, below[0], own)
            self.constants[name] = np.zeros(folded.layer.out_shape[0]) if own is None else own
        elif folded.layer.op == "add" and np.any(below) and (folded.layer.relu or not lifted):
            for layer in _settled(folded, np.sum(below, axis=0)):
                self.layers[layer.layer.name] = layer
            self.constants[name] = np.zeros(folded.layer.out_shape[0])
        else:
            self.layers[name] = folded
            self.constants[name] = np.sum(below, axis=0)

    def _mark(self, source: str) -> _Marked:
        """Return ``source`` with a channel of marks: by its writer if nothing else reads it, by a layer of their own if not.

        The largest value is the mark: a scale that suits the tensor holds it exactly, and the weights that read it are small.
        """
        if source not in self.marked:
            values = self.reference[source].max(axis=(0, 1, 2)) + self.constants[source]
            mark = float(values.max()) or 1.0
            writer = self.layers[source]
            if self.readers[source] > 1 or writer.weight is None:
                writer = _copy(writer.layer)
            self.layers[writer.layer.name] = _marking(writer, mark)
            self.marked[source] = _Marked(writer.layer.name, mark)
        return self.marked[source]


def _weighted(folded: FoldedLayer, below: Float64Array, own: Float64Array | None) -> FoldedLayer:
    """Take ``below`` (C,) from the bias and add the layer's ``own`` constant (O,) to it."""
    layer, weight = folded.layer, folded.weight
    assert weight is not None
    channels = 1 if layer.op == "depthwise" else len(below)
    sums = weight.astype(np.float64).reshape(len(weight), channels, -1).sum(axis=2)
    taken = sums[:, 0] * below if layer.op == "depthwise" else sums @ below
    bias = (0 if folded.bias is None else folded.bias) - taken + (0 if own is None else own)
    if own is None:
        return replace(folded, bias=bias.astype(np.float32))
    return replace(folded, layer=replace(layer, relu=True), bias=bias.astype(np.float32))


def _with_mark(folded: FoldedLayer, below: Float64Array, marked: _Marked) -> FoldedLayer:
    """Return a convolution that takes ``below`` (C,) away by the marks of its input, so that padding is a real 0."""
    layer, weight = folded.layer, _dense(folded)
    taken = -np.tensordot(below, weight, axes=(0, 1))[:, None] / marked.mark  # (O, 1, KH, KW)
    in_shape = (layer.in_shape[0] + 1, *layer.in_shape[1:])
    layer = replace(layer, op="conv", inputs=(marked.name,), in_shape=in_shape)
    # What is taken away are no multiples of a step that the weights were trained with.
    return replace(folded, layer=layer, weight=np.concatenate([weight, taken], axis=1).astype(np.float32), step=None)


def _marking(folded: FoldedLayer, mark: float) -> FoldedLayer:
    """Return a layer that writes one channel more, which is ``mark`` everywhere."""
    layer, weight = folded.layer, _dense(folded)
    bias = np.zeros(len(weight)) if folded.bias is None else folded.bias
    op = layer.op if layer.op == "linear" else "conv"
    layer = replace(layer, op=op, out_shape=(layer.out_shape[0] + 1, *layer.out_shape[1:]))
    weight = np.concatenate([weight, np.zeros_like(weight[:1])]).astype(np.float32)
    step = None if folded.step is None else np.append(folded.step, np.float32(1))
    return replace(folded, layer=layer, weight=weight, bias=np.append(bias, mark).astype(np.float32), step=step)


def _copy(layer: Layer) -> FoldedLayer:
    """Return a layer that writes what ``layer`` does, which is not negative."""
    shape = layer.out_shape
    copy = Layer(f"{layer.name}.marked", "depthwise", (layer.name,), shape, shape, relu=True)
    return FoldedLayer(copy, np.ones((shape[0], 1, 1, 1), np.float32), None)


def _dense(folded: FoldedLayer) -> npt.NDArray[np.floating]:  # (O, C, KH, KW), or (O, K) of a linear layer
    """Return the weights, with the zeros between the channels of a depthwise layer written out."""
    weight = folded.weight
    assert weight is not None
    return weight if folded.layer.op != "depthwise" else np.eye(len(weight))[:, :, None, None] * weight


def _settled(folded: FoldedLayer, constant: Float64Array) -> tuple[FoldedLayer, FoldedLayer]:
    """Return the addition as it comes, and a layer that takes the ``constant`` (C,) from it before its ReLU."""
    layer = folded.layer
    raw = replace(layer, name=f"{layer.name}.lifted", relu=False)
    exact = replace(layer, op="depthwise", inputs=(raw.name,))
    ones = np.ones((len(constant), 1, 1, 1), np.float32)
    return FoldedLayer(raw, None, None), replace(folded, layer=exact, weight=ones, bias=-constant.astype(np.float32))
