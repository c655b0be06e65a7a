"""Plain networks: what an engineer draws first, and what a search has to beat.

A block is one convolution with batch norm, and a max pool or a stride that halves the map; the next has twice as many channels,
as far as Ω goes; the last is flattened. Chains of random decisions over Ω rarely make one, and hardly anything else that they
make learns as well as fast. With strides no map is large, with pools the network errs less.
"""

import itertools

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import Choice, Dimension, Value
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import WEIGHTS_PER_FLASH_BYTE, Padding, SpaceLimits
from sparse_mcu.space.suggest import fits, suggest

KERNELS = (3, 5)  # of the first convolution; the others have the smaller one
HALVED_BY = ("pool.window", "conv0.stride")
# What every block has, and what every network has; of a dimension that is not named, the middle of its range.
BLOCK: dict[str, Value] = {
    "convs": 1,
    "residual": False,
    "branch": False,
    "conv0.kind": "regular",
    "conv0.kernel": KERNELS[0],
    "conv0.batch_norm": True,
    "pool.kind": "max",
}
NETWORK: dict[str, Value] = {
    "head.kind": "flatten",
    "head.hidden": 0,
    "training.pruning.method": "unstructured",
    "training.weight_decay": 0.0,
    "training.dropout": 0.0,
    "training.augmentation": 0.0,
    "training.weight_bits": 8,
}


def plain(limits: SpaceLimits) -> tuple[Architecture, ...]:
    """Return the plain networks of Ω that fit ``limits`` as they are, without pruning, those with fewest multiplications first.

    The input is downsampled no further than the first that fits needs.
    """
    for downsample in limits.downsamples:
        designs = itertools.product(HALVED_BY, limits.blocks, KERNELS, limits.paddings, limits.channels)
        drawn = {_plain(limits, downsample, *design) for design in designs}
        fitting = [architecture for architecture in drawn if _fits_dense(limits, architecture)]
        if fitting:
            return tuple(sorted(fitting, key=lambda architecture: (_macs(architecture), repr(architecture))))
    return ()


def _plain(
    limits: SpaceLimits, downsample: int, halved_by: str, blocks: int, kernel: int, padding: Padding, channels: int
) -> Architecture:
    halving = {name: 2 if name == halved_by else 1 for name in HALVED_BY}
    wanted = NETWORK | {"downsample.window": downsample, "blocks": blocks}
    for block in range(blocks):
        parts = BLOCK | halving | {"conv0.channels": channels * 2**block}
        wanted |= {f"block{block}.{name}": value for name, value in parts.items()}
    wanted["block0.conv0.kernel"] = kernel

    def choose(dimension: Dimension) -> Value:
        return _nearest(dimension, padding if dimension.name.endswith(".padding") else wanted.get(dimension.name))

    return suggest(limits, choose)


def _nearest(dimension: Dimension, wanted: Value | None) -> Value:
    """Return the value of ``dimension`` nearest to ``wanted``: for a name that is none of its values, the middle one."""
    if wanted is None or not isinstance(dimension, Choice) or (isinstance(wanted, str) and wanted not in dimension.values):
        return dimension.at(0.5)
    if isinstance(wanted, str):
        return wanted
    return min(dimension.values, key=lambda value: abs(float(value) - float(wanted)))


def _fits_dense(limits: SpaceLimits, architecture: Architecture) -> bool:
    weights = sum(layer.weights for layer in layers(architecture))
    return weights * WEIGHTS_PER_FLASH_BYTE <= limits.max_weights and fits(limits, architecture)


def _macs(architecture: Architecture) -> int:
    return sum(layer.macs for layer in layers(architecture))
