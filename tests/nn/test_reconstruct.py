from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.nn.inherit import inherit
from sparse_mcu.nn.kinship import Kinship
from sparse_mcu.nn.modules import WeightedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.operations import apply_weights, padded
from sparse_mcu.nn.reconstruct import RIDGES, _best_change, _interpolation, _ridge, _samples, begin_as, reconstruct
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.morph import MORPHS
from sparse_mcu.space.suggest import sample

METHODS = ("none", "unstructured", "structured", "both")
SEEDS = st.integers(0, 2**32 - 1)
MORPH = {m.name: m for m in MORPHS}
LIMITS = SpaceLimits.for_input((2, 12, 12), 3, ram_bytes=4096, flash_bytes=8192)


def images_for(architecture, seed, count=64):
    """Smooth images, as pixels next to each other are in real ones."""
    noise = torch.rand(count, *architecture.input_shape, generator=torch.Generator().manual_seed(seed % 1000))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return (255 * smooth).to(torch.uint8).numpy()


def logits(network, images):
    with torch.no_grad():
        return network.eval()(torch.from_numpy(images).float() / 255).numpy()


def child_of(parent, architecture):
    child = Network(architecture, seed=9)
    inherit(child, parent)
    return child


def masks(network, but=()):
    """Which weights stay, where single weights can leave, but for some layers."""
    return [layer.effective_weight() != 0 for layer in network.weighted() if layer.sparse and layer.layer.name not in but]


def reading_others(child, parent):
    kinship = Kinship(child, parent)
    return [layer.name for layer in child.layers if kinship.reads_others(layer)]


@given(SEEDS, st.sampled_from(METHODS), st.sampled_from(["widen", "add_conv", "add_block"]))
@settings(max_examples=60, deadline=None)
def test_where_the_function_was_inherited_nothing_moves(trained_network, seed, method, name):
    rng = np.random.default_rng(seed)
    drawn = sample(LIMITS, rng)
    architecture = replace(drawn, training=replace(drawn.training, pruning=Pruning(method)))
    changed = MORPH[name](architecture, LIMITS, rng)
    if changed is None:
        return
    parent = trained_network(architecture, seed)
    child, images = child_of(parent, changed), images_for(architecture, seed)
    before, kept = logits(child, images), masks(child)
    reconstruct(child, parent, images, seed)
    np.testing.assert_allclose(logits(child, images), before, rtol=0, atol=1e-3 * max(1.0, float(np.abs(before).max())))
    assert all(torch.equal(mask, was) for mask, was in zip(masks(child), kept, strict=True))


@given(SEEDS, st.sampled_from([m.name for m in MORPHS]))
@settings(max_examples=80, deadline=None)
def test_any_child_stays_as_sparse_as_it_was_and_finite(trained_network, seed, name):
    rng = np.random.default_rng(seed)
    architecture = sample(LIMITS, rng)
    changed = MORPH[name](architecture, LIMITS, rng)
    if changed is None:
        return
    parent = trained_network(architecture, seed)
    child, images = child_of(parent, changed), images_for(architecture, seed)
    free = reading_others(child, parent)
    kept = masks(child, but=free)
    reconstruct(child, parent, images, seed)
    assert np.isfinite(logits(child, images)).all()
    assert all(torch.equal(mask, was) for mask, was in zip(masks(child, but=free), kept, strict=True))


def three_layers(middle=True, **changes):
    convs = [Conv("regular", kernel, channels, batch_norm=False) for kernel, channels in (((3, 3), 4), ((1, 1), 4), ((3, 3), 5))]
    blocks = tuple(Block((conv,)) for conv in convs if middle or conv.kernel != (1, 1))
    return replace(Architecture((1, 8, 8), 3, blocks, None, Head("flatten"), Training(pruning=Pruning("none"))), **changes)


def test_what_a_layer_did_that_left_the_next_one_does_where_it_can(trained_network):
    """A layer that only changes the order of channels is not missed."""
    parent = trained_network(three_layers(), 3)
    weights = parent.weights()
    weights["block1.conv0.weight"] = np.eye(4, dtype=np.float32)[[2, 0, 3, 1]][:, :, None, None]
    parent.load(weights)
    child, images = child_of(parent, three_layers(middle=False)), images_for(parent.architecture, 1, 400)
    expected = logits(parent, images)
    assert np.abs(logits(child, images) - expected).max() > 0.5 * expected.std()
    reconstruct(child, parent, images, seed=0)
    # What is left is what the ridge costs.
    assert np.sqrt(np.mean((logits(child, images) - expected) ** 2)) < 0.05 * expected.std()


def test_zeros_of_a_layer_that_reads_what_its_twin_did_not_may_come_back(trained_network):
    training = Training(pruning=Pruning("unstructured"))
    parent = trained_network(three_layers(training=training), 3)
    first, _, last_conv, _ = parent.weighted()
    with torch.no_grad():
        first.bias.fill_(3.0)  # no channel is silent
        last_conv.weight[:, ::2] = 0.0
        last_conv.log_variance[:, ::2] = 0.0
    child, images = child_of(parent, three_layers(middle=False, training=training)), images_for(parent.architecture, 1, 400)
    assert reading_others(child, parent) == ["block1.conv0"]
    before = logits(child, images)
    (reader,) = (layer for layer in child.weighted() if layer.layer.name == "block1.conv0")
    assert not (reader.effective_weight() != 0)[:, ::2].any()
    reconstruct(child, parent, images, seed=0)
    assert (reader.effective_weight() != 0)[:, ::2].any()
    wanted = logits(parent, images)
    assert np.square(logits(child, images) - wanted).mean() < 0.5 * np.square(before - wanted).mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changed",
    [
        {"downsample": Pool("average", (2, 2))},
        {"head": Head("global")},
        {"head": Head("flatten", 12)},
        {"blocks": (Block((Conv("regular", (3, 3), 3),)), Block((Conv("regular", (3, 3), 5),)))},
        {"blocks": (Block((Conv("regular", (3, 3), 4, stride=(2, 2)),)), *three_layers().blocks[1:])},
        {"blocks": (Block((Conv("regular", (3, 3), 4),), Pool("max", (2, 2))), *three_layers().blocks[1:])},
    ],
)
def test_a_child_that_cannot_compute_what_its_parent_does_comes_nearer(trained_network, method, changed):
    training = Training(pruning=Pruning(method))
    parent = trained_network(three_layers(training=training), 5)
    images = images_for(parent.architecture, 2, 600)
    wanted, held_out = logits(parent, images[:500]), images[500:]
    child = child_of(parent, three_layers(training=training, **changed))

    def distance(network):
        return float(np.mean((logits(network, held_out) - logits(parent, held_out)) ** 2))

    before = distance(child)
    reconstruct(child, parent, images[:500], seed=0)
    assert distance(child) < 0.8 * before
    assert abs(float((logits(child, images[:500]) - wanted).mean())) < 0.2 * wanted.std()


def test_a_child_of_the_same_layers_is_left_as_it_is(trained_network):
    parent = trained_network(three_layers(training=Training(pruning=Pruning("unstructured"))), 3)
    child = child_of(parent, three_layers(training=Training(pruning=Pruning("unstructured"), learning_rate=0.02)))
    before = child.weights()
    reconstruct(child, parent, images_for(parent.architecture, 1), seed=0)
    assert all(np.array_equal(value, before[name]) for name, value in child.weights().items())


def test_a_child_that_lost_what_told_images_apart_begins_anew(trained_network):
    """As where pruning has emptied a block that a branch leads past, and the morph takes the branch."""
    first, middle, last = three_layers(training=Training(pruning=Pruning("unstructured"))).blocks
    branched = three_layers(
        training=Training(pruning=Pruning("unstructured")), blocks=(replace(first, branch=True), middle, last)
    )
    parent = trained_network(branched, 3)
    emptied = next(layer for layer in parent.weighted() if layer.layer.name == "block1.conv0")
    with torch.no_grad():
        emptied.weight.zero_()
        emptied.log_variance.zero_()
    images = images_for(branched, 1)
    child = Network(replace(branched, blocks=(first, middle, last)), seed=9)
    fresh = child.weights()
    assert not begin_as(child, parent, images, seed=0)
    assert all(np.array_equal(value, fresh[name]) for name, value in child.weights().items())
    wider = Network(replace(branched, blocks=(replace(first, branch=True), middle, Block((Conv("regular", (3, 3), 7),)))), seed=9)
    assert begin_as(wider, parent, images, seed=0)
    np.testing.assert_allclose(logits(wider, images), logits(parent, images), atol=0.5 * logits(parent, images).std())


def test_the_same_seed_fits_the_same_weights(trained_network):
    parent = trained_network(three_layers(), 3)
    images = images_for(parent.architecture, 1, 3000)

    def fitted(seed):
        child = child_of(parent, three_layers(middle=False))
        reconstruct(child, parent, images, seed)
        return child.weights()

    first, again, other = fitted(0), fitted(0), fitted(1)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_what_is_sampled_is_what_the_layers_read_and_compute(random_architecture, seed):
    architecture = random_architecture(seed, "none")
    generator = torch.Generator().manual_seed(seed)
    for operation in Network(architecture, seed).weighted():
        assert isinstance(operation, WeightedLayer)
        layer = operation.layer
        x = torch.rand(3, *layer.in_shape, generator=generator)
        with torch.no_grad():
            sums = apply_weights(layer, padded(layer, x), operation.weight)
            X, Y = _samples(layer, x, sums, np.random.default_rng(seed))
            weight = operation.weight.double().reshape(len(operation.weight), -1)
            computed = torch.einsum("nod,od->no", X.expand(-1, len(weight), -1), weight)
        torch.testing.assert_close(computed, Y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 7), (12, 30)])
def test_ridge_regression_is_that_of_its_definition(shape):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(1.0, 2.0, shape), rng.normal(3.0, 1.0, (shape[0], 2))
    centred = X - X.mean(0)
    for ridge, (change, offset) in zip(RIDGES, _ridge(torch.from_numpy(X), torch.from_numpy(Y)), strict=True):
        penalty = ridge * (centred**2).sum(0).mean()
        # Least squares over the data and one row for each weight that should be 0.
        stacked = np.vstack([centred, np.sqrt(penalty) * np.eye(shape[1])])
        right = np.vstack([Y - Y.mean(0), np.zeros((shape[1], 2))])
        expected = np.linalg.lstsq(stacked, right, rcond=None)[0]
        np.testing.assert_allclose(change, expected, atol=1e-9)
        np.testing.assert_allclose(offset, Y.mean(0) - X.mean(0) @ expected, atol=1e-9)


def test_a_weaker_ridge_has_to_be_worth_its_larger_weights():
    """Inputs that are nearly the same could tell their small difference with large weights that cancel each other."""
    rng = np.random.default_rng(0)
    common, difference = rng.standard_normal((2, 4000))
    X = np.stack([common + 0.3 * difference, common - 0.3 * difference], axis=1)
    noise = 0.3 * rng.standard_normal(4000)
    near, far = (
        _best_change(torch.from_numpy(X), torch.from_numpy(common + share * difference + noise)[:, None])[0].abs().max()
        for share in (0.1, 3.0)
    )
    assert near < 0.6 and far > 4.0


def test_what_only_learns_its_samples_by_heart_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    X, noise = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((200, 150), (200, 2)))
    noise -= noise.mean(0)
    change, offset = _best_change(X, noise)
    assert change.abs().max() < 0.02 and offset.abs().max() < 0.1
    truth = torch.randn((150, 2), generator=generator, dtype=torch.float64)
    change, _ = _best_change(X, X @ truth + 0.01 * noise)
    assert (change - truth).square().mean() < 0.5 * truth.square().mean()


def test_maps_of_another_size_are_read_where_they_show_the_same():
    same = _interpolation((0.0, 1.0), 5, (0.0, 1.0), 5)
    assert torch.equal(same, torch.eye(5))
    halved = _interpolation((0.0, 2.0), 2, (0.0, 1.0), 4)  # a stride of two: the mean of the two cells in each
    assert torch.allclose(halved, torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]))
    beyond = _interpolation((-1.0, 1.0), 3, (0.0, 1.0), 2)  # padding that came: what lies outside is as the rim is
    assert torch.equal(beyond, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))


def test_layers_are_fitted_for_boards_of_any_memory(trained_network, monkeypatch):
    """Of large maps fewer images are taken."""
    monkeypatch.setattr("sparse_mcu.nn.reconstruct.ACTIVATIONS", 8 * 8 * 5 * 10)
    parent = trained_network(three_layers(), 3)
    assert max(np.prod(layer.out_shape) for layer in layers(parent.architecture)) == 8 * 8 * 5
    child = child_of(parent, three_layers(middle=False))
    reconstruct(child, parent, images_for(parent.architecture, 1), seed=0)
    assert np.isfinite(logits(child, images_for(parent.architecture, 1))).all()
