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
