import dataclasses
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.space.architecture import Architecture, Block, Conv, Pool
from sparse_mcu.space.layers import INPUT, Layer, layers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.memory import Peak, peak_activations
from sparse_mcu.space.suggest import sample

LIMITS = SpaceLimits.for_input((1, 8, 8), 10, ram_bytes=4096, flash_bytes=65536)


def conv(channels: int, kernel: int = 3) -> Conv:
    return Conv("regular", (kernel, kernel), channels)


def peak(*blocks: Block, downsample: Pool | None = None) -> Peak:
    return peak_activations(layers(Architecture((1, 8, 8), 10, blocks, downsample)))


def test_a_convolution_holds_its_input_and_output() -> None:
    assert peak(Block((conv(4),))) == Peak("block0.conv0", 64 + 256)


def test_the_widest_pair_of_maps_counts() -> None:
    assert peak(Block((conv(2), conv(4), conv(1)))) == Peak("block0.conv1", 128 + 256)


def test_pools_and_pointwise_convolutions_run_in_place() -> None:
    assert peak(Block((conv(1), conv(4, kernel=1)), pool=Pool("average", (2, 2)))) == Peak("block0.conv1", 256)


def test_the_map_before_a_max_pool_never_exists() -> None:
    assert peak(Block((conv(4),), pool=Pool("max", (2, 2)))) == Peak("block0.conv0", 64 + 64)


def test_a_map_that_others_read_too_exists_before_its_pool() -> None:
    shortcut = Block((conv(4), conv(4), conv(4)), residual=True, pool=Pool("max", (2, 2)))
    assert peak(shortcut) == Peak("block0.conv2", 3 * 256)


def test_the_input_alone_can_bind() -> None:
    assert peak(Block((conv(1),)), downsample=Pool("max", (4, 4))) == Peak(INPUT, 64)


def test_a_shortcut_is_held_until_it_is_added() -> None:
    assert peak(Block((conv(2), conv(2), conv(2)), residual=True)) == Peak("block0.conv2", 3 * 128)


def test_a_branchs_logits_are_held_but_not_its_map() -> None:
    blocks = Block((conv(2),), branch=True), Block((conv(4),))
    assert peak(*blocks) == Peak("block1.conv0", 128 + 256 + 10)


def with_pools(network: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Fuse the first convolution that a max pool alone reads with it, and so on until there is none."""
    for conv in network:
        readers = [layer for layer in network for name in layer.inputs if name == conv.name]
        if conv.op in ("conv", "depthwise") and len(readers) == 1 and readers[0].op == "max_pool":
            fused = dataclasses.replace(conv, name=readers[0].name, out_shape=readers[0].out_shape)
            return with_pools(tuple(fused if layer is readers[0] else layer for layer in network if layer is not conv))
    return network


def brute_force(network: tuple[Layer, ...]) -> int:
    """The most bytes held at once, each tensor's life looked up anew at every step."""
    network = with_pools(network)
    sizes = {INPUT: math.prod(network[0].in_shape)} | {layer.name: math.prod(layer.out_shape) for layer in network}
    order = [INPUT, *(layer.name for layer in network)]
    in_place = ("add", "max_pool", "average_pool")

    def is_read_from(name: str, step: int) -> bool:
        return any(name in layer.inputs for layer in network[step:])

    def held(step: int) -> int:
        layer = network[step]
        total = sizes[layer.name] + sum(sizes[name] for name in order[: step + 1] if is_read_from(name, step))
        overwritten = [sizes[name] for name in layer.inputs if not is_read_from(name, step + 1)]
        if layer.op in in_place or (layer.op == "conv" and math.prod(layer.kernel) == 1):
            total -= min(max(overwritten, default=0), sizes[layer.name])
        return total

    return max(held(step) for step in range(len(network)))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_brute_force(seed: int) -> None:
    network = layers(sample(LIMITS, np.random.default_rng(seed)))
    assert peak_activations(network).bytes == max(brute_force(network), 64)
