import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.nn.network import Network
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

METHODS = ("none", "unstructured", "structured", "both")
SEEDS = st.integers(0, 2**32 - 1)


def architecture(method="unstructured", **training):
    convs = (Conv("regular", (3, 3), 4), Conv("separable", (3, 3), 6, batch_norm=False))
    return Architecture(
        (1, 8, 8), 3, (Block(convs, Pool("max", (2, 2))),), training=Training(pruning=Pruning(method), **training)
    )


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_forward_has_the_shapes_of_the_layer_list(random_architecture, seed, method):
    a = random_architecture(seed, method)
    network = Network(a, seed)
    assert network(torch.rand(2, *a.input_shape)).shape == (2, a.classes)
    counted = {layer.layer.name: layer.weight.numel() for layer in network.weighted()}
    assert counted == {layer.name: layer.weights for layer in network.layers if layer.weights}


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_folded_network_equals_eval_mode(random_architecture, trained_network, run_folded, seed, method):
    a = random_architecture(seed, method)
    network = trained_network(a, seed)
    x = torch.rand(3, *a.input_shape, generator=torch.Generator().manual_seed(seed % 1000))
    with torch.no_grad():
        logits = network(x).numpy()
    tolerance = 1e-4 * max(1.0, float(np.abs(logits).max()))
    np.testing.assert_allclose(run_folded(network.fold(), x.numpy()), logits, rtol=0, atol=tolerance)


def test_weights_survive_a_round_trip(trained_network):
    weights = trained_network(architecture("both"), 1).weights()
    other = Network(architecture("both"), seed=2)
    other.load(weights)
    assert other.weights().keys() == weights.keys()
    assert all(np.array_equal(other.weights()[name], value) for name, value in weights.items())


def test_weights_are_a_copy():
    network = Network(architecture(), seed=0)
    weights = network.weights()
    weights["logits.weight"][:] = 7
    assert not np.any(network.weights()["logits.weight"] == 7)


def test_loading_names_the_first_part_that_does_not_fit():
    network = Network(architecture(), seed=0)
    weights = network.weights()
    with pytest.raises(ArchitectureError, match=r"'logits.weight' is \(2, 96\) and must be \(3, 96\)"):
        network.load(weights | {"logits.weight": weights["logits.weight"][:2]})
    with pytest.raises(ArchitectureError, match="'logits.bias' does not: the architecture needs it"):
        network.load({name: value for name, value in weights.items() if name != "logits.bias"})
    with pytest.raises(ArchitectureError, match="'odd' does not: the architecture has no such part"):
        network.load(weights | {"odd": weights["logits.bias"]})


def test_seed_decides_the_first_weights_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (Network(architecture(), seed).weights()["logits.weight"] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_first_weights_keep_the_variance_of_the_sums():
    wide = Architecture((64, 5, 5), 2, (Block((Conv("regular", (3, 3), 64, batch_norm=False),)),))
    weight = Network(wide, seed=0).weights()["block0.conv0.weight"]
    assert weight.var() == pytest.approx(2 / (64 * 9), rel=0.05)


@pytest.mark.parametrize("asked", [2, 4, 8])
def test_ends_have_four_bits_or_more_and_depthwise_layers_eight(asked):
    convs = (Conv("regular", (3, 3), 4), Conv("separable", (3, 3), 6))
    blocks = (Block(convs, branch=True), Block((Conv("regular", (3, 3), 4),)))
    end = max(4, asked)
    hidden = {"block0.conv0": end, "block0.conv1.depthwise": 8, "block0.conv1.pointwise": asked, "block1.conv0": asked}
    for head, last in (
        (Head(), {"head0.linear": end, "head1.linear": end}),
        (Head(hidden=5), {"head0.linear": asked, "head1.linear": asked, "logits": end}),
    ):
        network = Network(Architecture((1, 8, 8), 3, blocks, head=head, training=Training(weight_bits=asked)), seed=0)
        assert {layer.layer.name: layer.bits for layer in network.weighted()} == hidden | last


def test_dropout_acts_on_the_input_of_linear_layers_in_training_only():
    network = Network(architecture("none", dropout=0.5), seed=0)
    x = torch.rand(2, 1, 8, 8)
    torch.manual_seed(0)
    network.train()
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def log_uniform(mean, log_variance):
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    alpha = np.exp(log_variance.astype(float)) / (mean.astype(float) ** 2 + 1e-8)
    return k1 - k1 / (1 + np.exp(-(k2 + k3 * np.log(alpha)))) + 0.5 * np.log1p(1 / alpha)


def standard_normal(mean, log_variance):
    return 0.5 * (np.exp(log_variance.astype(float)) + mean.astype(float) ** 2 - 1 - log_variance)


def scale_kl(parts, name):
    return log_uniform(parts[f"{name}.mean"], parts[f"{name}.log_variance"]).sum()


@pytest.mark.parametrize(
    ("method", "of_weights"), [("unstructured", log_uniform), ("structured", standard_normal), ("both", log_uniform)]
)
def test_kl_is_the_sum_over_weights_and_scales(method, of_weights):
    network = Network(architecture(method), seed=0)
    parts = network.weights()
    names = [layer.layer.name for layer in network.weighted()]
    expected = sum(of_weights(parts[f"{name}.weight"], parts[f"{name}.log_variance"]).sum() for name in names)
    if method != "unstructured":
        # A channel of the first convolution has 9 weights, 9 of the depthwise layer and 6 that read it; one of the pointwise
        # layer has 4, and 16 for each of 3 classes.
        leaving = {"block0.conv0": 24, "block0.conv1.depthwise": 24, "block0.conv1.pointwise": 52}
        for name, weights in leaving.items():
            expected += 1.5 * math.sqrt(weights) * scale_kl(parts, f"{name}.scale")
        expected += scale_kl(parts, "logits.input_scale")
    assert "logits.scale.mean" not in parts
    assert network.kl().item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_zero_without_pruning():
    assert float(Network(architecture("none"), seed=0).kl()) == 0.0
