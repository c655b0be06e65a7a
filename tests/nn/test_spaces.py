from sparse_mcu.nn.spaces import channel_spaces, weights_per_channel
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool
from sparse_mcu.space.layers import layers


def network():
    """conv0 -> (depthwise, pointwise) -> conv2, a sum around the last two, a pool, and two branches into hidden units."""
    convs = (Conv("regular", (3, 3), 4), Conv("separable", (3, 3), 5), Conv("regular", (1, 1), 4))
    blocks = (Block(convs, Pool("max", (2, 2)), residual=True, branch=True), Block((Conv("regular", (1, 1), 2),)))
    return layers(Architecture((1, 4, 4), 3, blocks, head=Head(hidden=6)))


def test_pools_depthwise_layers_and_sums_share_their_inputs_channels():
    assert channel_spaces(network()) == {
        "input": "input",
        "block0.conv0": "block0.conv0",
        "block0.conv1.depthwise": "block0.conv0",
        "block0.conv1.pointwise": "block0.conv1.pointwise",
        "block0.conv2": "block0.conv0",
        "block0.add": "block0.conv0",
        "block0.pool": "block0.conv0",
        "head0.linear": "head0.linear",
        "block1.conv0": "block1.conv0",
        "head1.linear": "head0.linear",
        "hidden": "head0.linear",
        "logits": "logits",
    }


def test_weights_that_leave_with_a_channel_are_those_that_write_and_read_its_space():
    count = weights_per_channel(network())
    rows = 9 + 9 + 5  # of conv0, depthwise, conv2
    columns = 5 + 6 * 4 + 2  # of pointwise, head0.linear over a 2x2 map, block1.conv0
    assert count["block0.conv0"] == count["block0.pool"] == rows + columns
    assert count["block0.conv1.pointwise"] == 4 + 4
    assert count["hidden"] == (4 * 4 + 2 * 4) + 3
