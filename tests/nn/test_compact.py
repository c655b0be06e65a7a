from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

SEEDS = st.integers(0, 2**32 - 1)


def masked(network, rng, dense):
    """Set random channels (weights and bias), random weights and random columns to 0; what is left of each: ``dense``."""
    result = []
    for folded in network:
        if folded.weight is None:
            result.append(folded)
            continue
        weight, bias = folded.weight.copy(), folded.bias.copy()
        silent = rng.random(len(weight)) > dense
        weight[silent] = 0
        bias[silent & (rng.random(len(bias)) < 0.7)] = 0  # the others are constants
        maps = weight.reshape(len(weight), -1, folded.layer.kernel[0] * folded.layer.kernel[1])
        maps[:, rng.random(maps.shape[1]) > dense] = 0
        weight[rng.random(weight.shape) > dense] = 0
        result.append(FoldedLayer(folded.layer, weight, bias))
    return tuple(result)


def channels(network):
    return {folded.layer.name: folded.layer.out_shape[0] for folded in network}


def images(architecture, seed):
    return np.random.default_rng(seed).random((3, *architecture.input_shape), dtype=np.float32)


@given(SEEDS, st.sampled_from([0.2, 0.5, 0.8, 1.0]))
@settings(max_examples=300, deadline=None)
def test_the_smaller_network_equals_the_masked_one(random_architecture, trained_network, run_folded, seed, dense):
    architecture = random_architecture(seed, "none")
    network = masked(trained_network(architecture, seed).fold_layers(), np.random.default_rng(seed), dense)
    smaller = compact(network)
    x = images(architecture, seed)
    expected = run_folded(network, x)
    np.testing.assert_allclose(run_folded(smaller, x), expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    assert [f.layer.name for f in smaller] == [f.layer.name for f in network]
    assert all(channels(smaller)[name] <= count for name, count in channels(network).items())
    assert min(channels(smaller).values()) >= 1


@given(SEEDS, st.sampled_from([0.3, 0.7]))
@settings(max_examples=50, deadline=None)
def test_nothing_more_leaves_a_compact_network(random_architecture, trained_network, seed, dense):
    network = trained_network(random_architecture(seed, "none"), seed).fold_layers()
    smaller = compact(masked(network, np.random.default_rng(seed), dense))
    assert compact(smaller) is smaller


@given(SEEDS, st.sampled_from(["structured", "both"]))
@settings(max_examples=100, deadline=None)
def test_pruned_channels_leave_through_fold(random_architecture, trained_network, run_folded, seed, method):
    architecture = random_architecture(seed, method)
    network = trained_network(architecture, seed)
    x = images(architecture, seed)
    expected = run_folded(network.fold_layers(), x)
    np.testing.assert_allclose(run_folded(network.fold(), x), expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


def folded(blocks, head=None, **weights):
    """A network without batch norm whose named weights and biases are replaced by the given functions of them."""
    architecture = Architecture((1, 6, 6), 2, blocks, head=head or Head(), training=Training(pruning=Pruning("none")))
    network = Network(architecture, seed=0)
    parts = network.weights()
    for name, change in weights.items():
        change(parts[f"block0.{name}.weight"], parts[f"block0.{name}.bias"])
    network.load(parts)
    return network.fold_layers()


def conv(width, kind="regular", **options):
    return Conv(kind, (3, 3), width, batch_norm=False, **options)


def silence(*rows, bias=0.0):
    def change(weights, biases):
        weights[list(rows)] = 0
        biases[list(rows)] = bias

    return change


def test_a_silent_channel_leaves_through_depthwise_layer_pool_and_flattened_map():
    blocks = (Block((conv(5), conv(4, "separable")), Pool("max", (2, 2))),)
    smaller = compact(folded(blocks, conv0=silence(1, 3), **{"conv1.pointwise": silence(0)}))
    assert channels(smaller) == {
        "block0.conv0": 3, "block0.conv1.depthwise": 3, "block0.conv1.pointwise": 3, "block0.pool": 3, "logits": 2
    }  # fmt: skip
    assert smaller[-1].weight.shape == (2, 3 * 9)


def test_a_residual_sum_keeps_a_channel_until_both_sides_are_silent():
    blocks = (Block((conv(4), conv(4), conv(4)), residual=True),)
    one_side = compact(folded(blocks, conv0=silence(0, 2), conv2=silence(2, 3)))
    assert channels(one_side)["block0.add"] == channels(one_side)["block0.conv0"] == channels(one_side)["block0.conv2"] == 3


def test_a_constant_is_folded_where_nothing_is_padded_and_kept_where_something_is():
    valid = compact(folded((Block((conv(4), conv(3, padding="valid"))),), conv0=silence(1, bias=0.5)))
    same = compact(folded((Block((conv(4), conv(3))),), conv0=silence(1, bias=0.5)))
    negative = compact(folded((Block((conv(4), conv(3))),), conv0=silence(1, bias=-0.5)))  # 0 behind the ReLU
    assert [channels(network)["block0.conv0"] for network in (valid, same, negative)] == [3, 4, 3]


def test_a_constant_is_folded_as_its_relu_leaves_it(run_folded):
    first, *rest = folded((Block((conv(4), conv(3, padding="valid"))),), conv0=silence(1, bias=9.0))
    network = (replace(first, ceiling=6.0), *rest)
    x = np.random.default_rng(0).random((2, 1, 6, 6), dtype=np.float32)
    smaller = compact(network)
    assert channels(smaller)["block0.conv0"] == 3
    np.testing.assert_allclose(run_folded(smaller, x), run_folded(network, x), atol=1e-5)


def test_a_channel_that_nothing_reads_leaves_and_takes_what_only_it_read_along():
    def unread(weights, biases):
        weights[:, 2] = 0

    def only_for_the_unread(weights, biases):
        weights[[0, 1, 3], 1] = 0  # channel 1 of conv0 is read by channel 2 of conv1 alone

    network = folded((Block((conv(3), conv(4), conv(2))),), conv1=only_for_the_unread, conv2=unread)
    assert channels(compact(network)) == {"block0.conv0": 2, "block0.conv1": 3, "block0.conv2": 2, "logits": 2}


def test_a_layer_left_without_channels_keeps_one():
    network = folded((Block((conv(4), conv(3))),), conv0=silence(0, 1, 2, 3))
    assert channels(compact(network)) == {"block0.conv0": 1, "block0.conv1": 1, "logits": 2}


def test_hidden_units_leave_a_sum_of_branches():
    blocks = (Block((conv(3),), branch=True), Block((conv(3),)))
    network = folded(blocks, Head(hidden=4))
    silent = [replace_rows(f, (1,)) if f.layer.name in ("head0.linear", "head1.linear") else f for f in network]
    smaller = channels(compact(tuple(silent)))
    assert (smaller["head0.linear"], smaller["head1.linear"], smaller["hidden"], smaller["logits"]) == (3, 3, 3, 2)


def replace_rows(folded_layer, rows):
    weight, bias = folded_layer.weight.copy(), folded_layer.bias.copy()
    silence(*rows)(weight, bias)
    return replace(folded_layer, weight=weight, bias=bias)


def test_a_dense_network_stays_as_it_is():
    network = folded((Block((conv(4), conv(3))),))
    assert compact(network) is network
