"""Channel spaces: the tensors of a network that share one numbering of channels.

Pools, depthwise layers and adds keep the number of a channel, convolutions and linear layers begin a new numbering. A channel can
therefore be reordered, added or removed only in a whole space: in all its tensors, in the rows of the weights that write them and
in the columns of those that read them. A space goes by the name of its first tensor.
"""

from collections.abc import Sequence

from sparse_mcu.space.layers import INPUT, Layer


def begins_space(layer: Layer) -> bool:
    """Whether the channels of the layer's output are numbered by the rows of its weights, independently of its input's."""
    return layer.op in ("conv", "linear")


def channel_spaces(layers: Sequence[Layer]) -> dict[str, str]:
    """Return the space of INPUT and of every layer's output."""
    root = {INPUT: INPUT}
    for layer in layers:
        root[layer.name] = layer.name
        if begins_space(layer):
            continue
        joined = {root[name] for name in (*layer.inputs, layer.name)}
        first = next(name for name in root if name in joined)
        root = {name: first if space in joined else space for name, space in root.items()}
    return root


def weights_per_channel(layers: Sequence[Layer]) -> dict[str, int]:
    """Return how many weights leave with one channel of each layer's space: its rows, and what reads it elsewhere."""
    spaces = channel_spaces(layers)
    count = dict.fromkeys(spaces.values(), 0)
    for layer in layers:
        count[spaces[layer.name]] += layer.weights // layer.out_shape[0]
        if begins_space(layer):
            count[spaces[layer.inputs[0]]] += layer.weights // layer.in_shape[0]
    return {layer.name: count[spaces[layer.name]] for layer in layers}
