import dataclasses

import pytest

from sparse_mcu.space.architecture import Pool
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import WEIGHTS_PER_FLASH_BYTE, SpaceLimits
from sparse_mcu.space.plain import plain
from sparse_mcu.space.suggest import contains

LIMITS = SpaceLimits.for_input((1, 28, 28), 10, ram_bytes=2048, flash_bytes=8192)


@pytest.mark.parametrize(
    ("input_shape", "ram_bytes", "flash_bytes"),
    [((1, 8, 8), 512, 4096), ((1, 28, 28), 2048, 8192), ((3, 32, 32), 8192, 65536), ((2, 1, 128), 2048, 8192)],
)
def test_plain_networks_lie_within_the_limits_without_pruning(
    input_shape: tuple[int, int, int], ram_bytes: int, flash_bytes: int
) -> None:
    limits = SpaceLimits.for_input(input_shape, 10, ram_bytes, flash_bytes)
    networks = plain(limits)
    assert len(networks) >= 8 and len(set(networks)) == len(networks)
    for network in networks:
        assert contains(limits, network)
        assert WEIGHTS_PER_FLASH_BYTE * sum(layer.weights for layer in layers(network)) <= limits.max_weights


def test_a_plain_network_is_convolutions_of_growing_width_that_halve_the_map() -> None:
    halved_by = set()
    for network in plain(LIMITS):
        assert network.downsample is None and network.head.kind == "flatten" and network.head.hidden is None
        convs = [conv for block in network.blocks for conv in block.convs]
        assert len(convs) == len(network.blocks)
        assert all(conv.kind == "regular" and conv.batch_norm for conv in convs)
        assert all(conv.kernel == (3, 3) for conv in convs[1:])
        halved_by.add((*{conv.stride for conv in convs}, *{block.pool for block in network.blocks}))
        widths = [min(convs[0].channels * 2**index, LIMITS.channels[-1]) for index in range(len(convs))]
        assert [conv.channels for conv in convs] == widths
    assert halved_by == {((2, 2), None), ((1, 1), Pool("max", (2, 2)))}


def test_the_smallest_comes_first_and_the_largest_uses_the_memory() -> None:
    macs = [sum(layer.macs for layer in layers(network)) for network in plain(LIMITS)]
    assert macs == sorted(macs) and macs[-1] > 10 * macs[0]


def test_the_input_is_downsampled_only_where_nothing_else_fits() -> None:
    tight = dataclasses.replace(LIMITS, max_activation_bytes=1000)
    assert all(network.downsample is not None and network.downsample.window == (2, 2) for network in plain(tight))


def test_limits_that_hold_no_plain_network() -> None:
    assert plain(dataclasses.replace(LIMITS, max_weights=20)) == ()
