from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.nn.inherit import inherit
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.variational import KEPT_MARGIN
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS
from sparse_mcu.space.suggest import sample

METHODS = ("none", "unstructured", "structured", "both")
SEEDS = st.integers(0, 2**32 - 1)
MORPH = {m.name: m for m in MORPHS}
IMAGE = SpaceLimits.for_input((2, 12, 12), 3, ram_bytes=4096, flash_bytes=8192)
SIGNAL = SpaceLimits.for_input((3, 1, 32), 4, ram_bytes=4096, flash_bytes=8192)


def logits(network, seed):
    x = torch.rand(4, *network.architecture.input_shape, generator=torch.Generator().manual_seed(seed % 1000))
    with torch.no_grad():
        return network.eval()(x).numpy()


def with_method(architecture, method):
    return replace(architecture, training=replace(architecture.training, pruning=Pruning(method)))


def child_of(parent, architecture):
    child = Network(architecture, seed=9)
    inherit(child, parent)
    return child


def assert_same_function(parent, child, seed):
    expected = logits(parent, seed)
    tolerance = 1e-4 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(logits(child, seed), expected, rtol=0, atol=tolerance)


@given(SEEDS, st.sampled_from(METHODS), st.sampled_from(["widen", "add_conv", "add_block"]), st.sampled_from([IMAGE, SIGNAL]))
@settings(max_examples=150, deadline=None)
def test_wider_and_deeper_children_compute_what_their_parent_does(trained_network, seed, method, name, limits):
    rng = np.random.default_rng(seed)
    architecture = with_method(sample(limits, rng), method)
    larger = MORPH[name](architecture, limits, rng)
    if larger is None:
        return
    parent = trained_network(architecture, seed)
    assert_same_function(parent, child_of(parent, larger), seed)


def several_times(architecture, rng, names):
    """Apply morphs one after another, so that a child differs from its parent in several places."""
    for name in names:
        architecture = MORPH[name](architecture, IMAGE, rng) or architecture
    return architecture


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=40, deadline=None)
def test_several_widenings_at_once_keep_the_function(trained_network, seed, method):
    rng = np.random.default_rng(seed)
    architecture = with_method(sample(IMAGE, rng), method)
    parent = trained_network(architecture, seed)
    assert_same_function(parent, child_of(parent, several_times(architecture, rng, ["widen"] * 3)), seed)


def grown(architecture, rng):
    """Enlarge one kernel with "same" padding: larger or equal along both axes."""
    blocks = [list(b.convs) for b in architecture.blocks]
    places = [(i, j) for i, convs in enumerate(blocks) for j, conv in enumerate(convs) if conv.padding == "same"]
    if not places:
        return architecture
    i, j = places[rng.integers(len(places))]
    height, width = blocks[i][j].kernel
    blocks[i][j] = replace(blocks[i][j], kernel=(height + int(rng.integers(0, 4)), width + int(rng.integers(0, 4))))
    return replace(
        architecture, blocks=tuple(replace(b, convs=tuple(c)) for b, c in zip(architecture.blocks, blocks, strict=True))
    )


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_larger_kernels_keep_the_function(random_architecture, trained_network, seed, method):
    architecture = random_architecture(seed, method)
    parent = trained_network(architecture, seed)
    assert_same_function(parent, child_of(parent, grown(architecture, np.random.default_rng(seed))), seed)


@given(SEEDS, st.sampled_from(METHODS), st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_another_pruning_method_or_threshold_keeps_the_function(random_architecture, trained_network, seed, method, other):
    architecture = random_architecture(seed, method)
    parent = trained_network(architecture, seed)
    pruning = Pruning(other, threshold=1.0)
    child = replace(architecture, training=replace(architecture.training, pruning=pruning))
    assert_same_function(parent, child_of(parent, child), seed)


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=40, deadline=None)
def test_batch_norm_comes_and_goes_without_changing_the_function(random_architecture, trained_network, seed, method):
    architecture = random_architecture(seed, method)
    parent = trained_network(architecture, seed)
    rng = np.random.default_rng(seed)
    blocks = tuple(
        replace(b, convs=tuple(replace(c, batch_norm=bool(rng.integers(2))) for c in b.convs)) for b in architecture.blocks
    )
    assert_same_function(parent, child_of(parent, replace(architecture, blocks=blocks)), seed)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_new_branch_starts_without_a_say(random_architecture, trained_network, seed):
    architecture = random_architecture(seed, "unstructured")
    parent = trained_network(architecture, seed)
    blocks = tuple(replace(block, branch=True) for block in architecture.blocks)
    assert_same_function(parent, child_of(parent, replace(architecture, blocks=blocks)), seed)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_flattened_head_can_do_what_a_global_one_did(random_architecture, trained_network, seed):
    architecture = random_architecture(seed, "none")
    architecture = replace(architecture, head=Head("global", architecture.head.hidden))
    parent = trained_network(architecture, seed)
    assert_same_function(parent, child_of(parent, replace(architecture, head=Head("flatten", architecture.head.hidden))), seed)


@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_a_border_that_appears_has_no_say(trained_network, kernel):
    valid = Conv("regular", (kernel, kernel), 3, padding="valid")
    parent = trained_network(with_method(Architecture((1, 8, 8), 3, (Block((valid,)),)), "unstructured"), 3)
    padded = replace(parent.architecture, blocks=(Block((replace(valid, padding="same"),)),))
    assert_same_function(parent, child_of(parent, padded), 3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", [2, 3])
def test_on_even_images_coarser_and_finer_maps_sum_up_to_the_same(trained_network, method, before):
    """Where maps are constant, what a kernel or a linear layer sums up does not depend on how many cells there are."""

    def architecture(window):
        pool = None if window == 1 else Pool("average", (window, window))
        first, second = (Conv("regular", (kernel, kernel), 4, padding="valid") for kernel in (1, 3))
        return with_method(Architecture((1, 12, 12), 3, (Block((first,), pool), Block((second,)))), method)

    image = torch.full((1, 1, 12, 12), 0.4)
    for ours, theirs in ((1, before), (before, 1)):
        parent = trained_network(architecture(theirs), 5)
        with torch.no_grad():
            expected, found = (network.eval()(image).numpy() for network in (parent, child_of(parent, architecture(ours))))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(SEEDS, st.sampled_from(METHODS))
@settings(max_examples=20, deadline=None)
def test_an_equal_child_has_its_parents_posterior(random_architecture, trained_network, seed, method):
    parent = trained_network(random_architecture(seed, method), seed)
    child = child_of(parent, parent.architecture)
    for name, value in parent.weights().items():
        if "log_variance" in name:
            np.testing.assert_allclose(child.weights()[name], value, atol=2 * KEPT_MARGIN)


def two_layers(width, **conv):
    convs = (Conv("regular", (3, 3), width, batch_norm=False, **conv), Conv("separable", (3, 3), 4, batch_norm=False))
    return Architecture((1, 6, 6), 2, (Block(convs),), training=Training(pruning=Pruning("none")))


def test_narrowing_keeps_the_channels_that_matter_through_a_depthwise_layer():
    parent = Network(two_layers(6), seed=0)
    weights = parent.weights()
    for channel in (1, 4):  # written, but hardly read; read, but hardly written
        part = "block0.conv1.pointwise.weight" if channel == 1 else "block0.conv0.weight"
        weights[part][(slice(None), channel) if channel == 1 else channel] *= 1e-6
    parent.load(weights)
    child = child_of(parent, two_layers(4))
    kept = [0, 2, 3, 5]
    np.testing.assert_array_equal(child.weights()["block0.conv0.weight"], weights["block0.conv0.weight"][kept])
    np.testing.assert_array_equal(
        child.weights()["block0.conv1.depthwise.weight"], weights["block0.conv1.depthwise.weight"][kept]
    )
    np.testing.assert_allclose(logits(child, 0), logits(parent, 0), atol=1e-4)


def test_narrowing_drops_whole_maps_from_a_flattened_linear_layer():
    def network(width):
        blocks = (Block((Conv("regular", (3, 3), width, batch_norm=False),), Pool("max", (2, 2))),)
        return Architecture((1, 6, 6), 2, blocks, training=Training(pruning=Pruning("none")))

    parent = Network(network(5), seed=0)
    weights = parent.weights()
    weights["block0.conv0.weight"][[0, 3]] = 0
    parent.load(weights)
    child = child_of(parent, network(3))
    np.testing.assert_array_equal(
        child.weights()["logits.weight"].reshape(2, 3, 3, 3), weights["logits.weight"].reshape(2, 5, 3, 3)[:, [1, 2, 4]]
    )
    np.testing.assert_allclose(logits(child, 0), logits(parent, 0), atol=1e-5)


def test_narrowing_is_consistent_over_a_residual_sum():
    def network(*widths):
        convs = tuple(Conv("regular", (3, 3), width, batch_norm=False) for width in widths)
        return Architecture((1, 6, 6), 2, (Block(convs, residual=True),), training=Training(pruning=Pruning("none")))

    parent = Network(network(6, 6, 6), seed=0)
    weights = parent.weights()
    for part in ("block0.conv0.weight", "block0.conv2.weight"):
        weights[part][[1, 2]] = 0  # these channels are 0 on both sides of the sum
    parent.load(weights)
    child = child_of(parent, network(4, 6, 4))
    np.testing.assert_allclose(logits(child, 0), logits(parent, 0), atol=1e-5)


@pytest.mark.parametrize("morph", MORPHS, ids=lambda m: m.name)
@pytest.mark.parametrize("limits", [IMAGE, SIGNAL], ids=["image", "signal"])
def test_every_morph_leaves_a_network_that_runs(trained_network, morph, limits):
    rng = np.random.default_rng(0)
    for seed in range(8):
        architecture = sample(limits, rng)
        changed = morph(architecture, limits, rng)
        if changed is not None:
            assert np.isfinite(logits(child_of(trained_network(architecture, seed), changed), seed)).all()


def test_new_weights_are_certain_and_inherited_ones_as_certain_as_before(trained_network):
    def network(width):
        return replace(two_layers(width), training=Training(pruning=Pruning("unstructured")))

    parent = trained_network(network(4), 0)
    child = child_of(parent, network(6))
    inherited, before = child.weights()["block0.conv0.log_variance"], parent.weights()["block0.conv0.log_variance"]
    np.testing.assert_allclose(inherited[:4], before, atol=1e-6)
    assert (inherited[4:] <= -10).all()


def test_a_child_that_reads_other_inputs_is_refused():
    parent = Network(two_layers(4), seed=0)
    child = Network(replace(two_layers(4), input_shape=(3, 6, 6)), seed=0)
    with pytest.raises(ArchitectureError, match=r"\(3, 6, 6\), 2 are not \(1, 6, 6\), 2"):
        inherit(child, parent)
