"""How much RAM a network's feature maps need at the least, known from its layers alone."""

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass

from sparse_mcu.space.layers import INPUT, Layer


@dataclass(frozen=True, slots=True)
class Peak:
    """The layer at which most is held at once (INPUT: the input alone), and the bytes that its tensors take."""

    layer: str
    bytes: int


def peak_activations(network: tuple[Layer, ...]) -> Peak:
    """Return the peak of WM2 (METHOD section 1) over ``network``, run in order at 1 byte an element.

    Counted are a layer's input and output and whatever a later layer still reads. Layers that may write over an input
    nobody reads again are taken to do so, and a max pool comes with the convolution that it alone reads: the map between them
    never exists. Stack, scratch and weights are not counted: no plan that holds whole maps needs less.
    """
    network = _pooled(network)
    last_read = {name: index for index, layer in enumerate(network) for name in layer.inputs}
    alive = {INPUT: math.prod(network[0].in_shape)}
    peak = Peak(INPUT, alive[INPUT])
    for index, layer in enumerate(network):
        alive[layer.name] = math.prod(layer.out_shape)
        dying = {name: alive[name] for name in layer.inputs if last_read[name] == index}
        held = sum(alive.values())
        if dying and _runs_in_place(layer):
            held -= min(alive[layer.name], max(dying.values()))
        if held > peak.bytes:
            peak = Peak(layer.name, held)
        alive = {name: size for name, size in alive.items() if name not in dying}
    return peak


def _pooled(network: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return ``network`` with each convolution that a max pool alone reads as one layer with it, called as the convolution."""
    readers = Counter(name for layer in network for name in layer.inputs)
    convolutions = {layer.name for layer in network if layer.op in ("conv", "depthwise") and readers[layer.name] == 1}
    pools = {layer.inputs[0]: layer for layer in network if layer.op == "max_pool" and layer.inputs[0] in convolutions}
    renamed = {pool.name: source for source, pool in pools.items()}
    return tuple(
        dataclasses.replace(
            layer,
            inputs=tuple(renamed.get(name, name) for name in layer.inputs),
            out_shape=pools[layer.name].out_shape if layer.name in pools else layer.out_shape,
        )
        for layer in network
        if layer.name not in renamed
    )


def _runs_in_place(layer: Layer) -> bool:
    """Whether every output can be written over what the layer has read by then, channels last and row by row."""
    pointwise = layer.op == "conv" and layer.kernel == (1, 1)
    return pointwise or layer.op in ("add", "max_pool", "average_pool")
