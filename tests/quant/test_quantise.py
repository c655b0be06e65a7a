"""Quantised networks against their float originals: random folded networks of every kind of layer, and one trained on digits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from sparse_mcu.nn.folded import FoldedLayer
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import train
from sparse_mcu.quant.fixedpoint import fits_int32, sum_bounds
from sparse_mcu.quant.floating import channels_last, float_sums, float_tensors
from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, MaxPool2d, digest
from sparse_mcu.quant.interpreter import run, run_tensors
from sparse_mcu.quant.quantise import CALIBRATION_IMAGES, QuantisationError, difference, quantise
from sparse_mcu.quant.verify import verify
from sparse_mcu.quant.windows import convolve
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.layers import Layer, layers


def folded_network(architecture, rng, density=0.7):
    """Random weights that keep the size of activations from layer to layer (He et al., 2015), some of them pruned."""
    network = []
    for layer in layers(architecture):
        if layer.weight_shape is None:
            network.append(FoldedLayer(layer, None, None))
            continue
        fan_in = np.prod(layer.weight_shape[1:]) * density
        weight = rng.normal(0, np.sqrt(2 / fan_in), layer.weight_shape) * (rng.random(layer.weight_shape) < density)
        bias = rng.normal(0, 0.1, layer.weight_shape[0])
        network.append(FoldedLayer(layer, weight.astype(np.float32), bias.astype(np.float32)))
    return tuple(network)


def conv(channels, kernel=(3, 3), kind="regular", **fields):
    return Conv(kind, kernel, channels, **fields)


ARCHITECTURES = {
    "plain": Architecture((1, 8, 8), 10, (Block((conv(6), conv(8, stride=(2, 2)))),)),
    "separable, average pool, global head": Architecture(
        (3, 9, 7), 4, (Block((conv(6), conv(10, kind="separable")), Pool("average", (2, 2))),), head=Head("global")
    ),
    "downsampled, valid, even kernels": Architecture(
        (2, 12, 12), 3, (Block((conv(5, (2, 2), padding="valid"), conv(6, (4, 2)))),), downsample=Pool("max", (2, 2))
    ),
    "residual of the input": Architecture((4, 6, 6), 5, (Block((conv(4), conv(4)), residual=True),)),
    "residual, hidden layer": Architecture(
        (1, 8, 8), 5, (Block((conv(8), conv(8), conv(8)), Pool("max", (2, 2)), residual=True),), head=Head("flatten", 12)
    ),
    "branches summed to the logits": Architecture(
        (1, 10, 10),
        6,
        (
            Block((conv(4),), Pool("max", (2, 2)), branch=True),
            Block((conv(6, kind="reduced", reduced_channels=2),), branch=True),
            Block((conv(8),), Pool("max", (2, 2))),
        ),
    ),
    "branches summed to a hidden layer": Architecture(
        (1, 8, 8), 6, (Block((conv(4),), branch=True), Block((conv(6),), Pool("average", (3, 3)))), head=Head("global", 9)
    ),
    "1-D": Architecture((3, 1, 40), 4, (Block((conv(8, (1, 5)), conv(8, (1, 4), stride=(1, 2))), Pool("max", (1, 3))),)),
}


def images_like(architecture, rng, count):
    """Smooth random images: pixels that agree with their neighbours, as in photographs."""
    channels, height, width = architecture.input_shape
    coarse = rng.integers(0, 256, (count, channels, -(-height // 3), -(-width // 3)))
    smooth = coarse.repeat(3, axis=2).repeat(3, axis=3)[:, :, :height, :width]
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def quantised(name, seed, density):
    rng = np.random.default_rng(seed)
    network = folded_network(ARCHITECTURES[name], rng, density)
    images = images_like(ARCHITECTURES[name], rng, 64)
    return network, quantise(network, images), images


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.02, 0.3, 1.0]))
def test_every_layer_is_wrong_by_its_rounding_at_most(name, seed, density):
    """Each float layer, applied to what the integers before it stand for, against what its integers stand for."""
    network, graph, images = quantised(name, seed, density)
    real = {key: values * graph.tensors[key].scale for key, values in run_tensors(graph, images).items()}
    for folded, op in zip(network, graph.ops, strict=True):
        low, high = (limit * graph.tensors[op.name].scale for limit in graph.tensors[op.name].limits)
        error = np.abs(real[op.name] - float_sums(folded, real).clip(low, high))
        assert (error <= rounding(folded, op, graph, real) * (1 + 1e-3)).all(), op.name


def rounding(folded, op, graph, real):
    """Largest error that rounding the output, the weights and biases or multipliers of ``op`` can make, per element."""
    step = graph.tensors[op.name].scale
    match op:
        case Conv2d() | DepthwiseConv2d():
            sum_scale = op.multiplier / 2.0**op.shift * step  # s_w s_x
            reach = convolve(real[op.inputs[0]], np.ones(op.weights.shape), op.stride, op.padding)  # sum of |x| over the window
            weight_rounding = sum_scale / graph.tensors[op.inputs[0]].scale / 2
            return step / 2 + weight_rounding * reach + np.abs(op.bias * sum_scale - folded.bias)
        case MaxPool2d():
            return 0.0
        case AveragePool2d():
            return step / 2
        case Add():
            inputs = [real[key] / graph.tensors[key].scale for key in op.inputs]
            return step / 2 + sum(np.abs(x) for x in inputs) * 0.5 / 2**op.shift * step


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_pruned_weights_stay_zero_and_the_largest_of_a_channel_fills_int8(seed):
    network, graph, _ = quantised("plain", seed, 0.3)
    for folded, op in zip(network, graph.ops, strict=True):
        weights = channels_last(folded)
        assert not op.weights[weights == 0].any()
        alive = np.abs(weights).max(axis=(1, 2, 3)) > 0
        largest = np.abs(op.weights.astype(int)).max(axis=(1, 2, 3))[alive]
        assert (op.multiplier[alive] >= 128).all()  # so the step is at most 1/128 coarser than largest / 127
        assert (largest >= 126).all()


@pytest.mark.parametrize("kind", ["regular", "separable"])
@pytest.mark.parametrize("largest", [1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_weights_trained_for_a_step_become_their_multiples_of_it(kind, largest, seed):
    rng = np.random.default_rng(seed)
    architecture = Architecture((2, 8, 8), 5, (Block((conv(6), conv(8, kind=kind))),))
    multiples, network = {}, []
    for folded in folded_network(architecture, rng):
        step = np.exp(rng.normal(-3, 1, len(folded.weight))).astype(np.float32)
        whole = rng.integers(-largest, largest + 1, folded.weight.shape) * (rng.random(folded.weight.shape) < 0.5)
        weight = (whole * step.reshape(-1, *[1] * (whole.ndim - 1))).astype(np.float32)
        network.append(replace(folded, weight=weight, step=step))
        multiples[folded.layer.name] = channels_last(replace(folded, weight=whole.astype(np.float32)))
    for op in quantise(tuple(network), images_like(architecture, rng, 32)).ops:
        np.testing.assert_array_equal(op.weights.reshape(multiples[op.name].shape), multiples[op.name])


def test_a_large_bias_takes_bits_from_the_multiplier_until_the_sum_fits():
    """Weights a millionth of the bias: fine weights would need sums beyond int32."""
    layer = Layer("logits", "linear", ("input",), (1, 2, 2), (3, 1, 1), kernel=(2, 2))
    weight = np.full((3, 4), 1e-6, np.float32)
    network = (FoldedLayer(layer, weight, np.array([1, -2, 0.5], np.float32)),)
    images = np.arange(64, dtype=np.uint8).reshape(16, 1, 2, 2)
    graph = quantise(network, images)
    (op,) = graph.ops
    low, high = sum_bounds(op, graph.tensors[INPUT])
    assert (op.multiplier < 128).all()
    assert fits_int32(np.maximum(-low, high), op.multiplier, op.shift).all()
    assert not fits_int32(np.maximum(-low, high) * 2, op.multiplier * 2, op.shift + 1).any()
    assert difference(network, graph, images).largest <= graph.tensors["logits"].scale


def test_a_channel_without_weights_is_its_bias():
    layer = Layer("logits", "linear", ("input",), (1, 2, 2), (3, 1, 1), kernel=(2, 2))
    bias = np.array([1.0, -0.3, 0.0], np.float32)
    images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    graph = quantise((FoldedLayer(layer, np.zeros((3, 4), np.float32), bias),), images)
    step = graph.tensors["logits"].scale
    assert np.abs(run(graph, images) * step - bias).max() <= step * 0.501
    assert not graph.ops[0].weights.any()


def test_a_network_that_is_dead_on_the_calibration_images_still_runs():
    architecture = ARCHITECTURES["residual, hidden layer"]
    network = folded_network(architecture, np.random.default_rng(0))
    dead = tuple(f if f.bias is None else replace(f, bias=f.bias - 100) for f in network)
    graph = quantise(dead, np.zeros((3, 1, 8, 8), np.uint8))
    verify(graph)
    assert run(graph, np.full((1, 1, 8, 8), 255, np.uint8)).shape == (1, 5)


def test_calibration_uses_a_bounded_number_of_images():
    network = folded_network(ARCHITECTURES["plain"], np.random.default_rng(0))
    images = images_like(ARCHITECTURES["plain"], np.random.default_rng(1), 2 * CALIBRATION_IMAGES)
    assert digest(quantise(network, images)) == digest(quantise(network, images[::2]))


def test_a_network_that_is_not_finite_is_refused():
    network = folded_network(ARCHITECTURES["plain"], np.random.default_rng(0))
    broken = (replace(network[0], bias=np.full_like(network[0].bias, np.nan)), *network[1:])
    with pytest.raises(QuantisationError, match="must be finite, but block0.conv0"):
        quantise(broken, np.zeros((1, 1, 8, 8), np.uint8))


def test_correcting_biases_takes_the_mean_error_out_of_the_logits():
    """The mean over the calibration images of what the logits are off by is below one step, whatever rounding did before."""
    network, graph, images = quantised("branches summed to a hidden layer", 3, 1.0)
    expected = float_tensors(network, images)["logits"][:, 0, 0]
    error = run(graph, images) * graph.tensors["logits"].scale - expected
    assert np.abs(error.mean(axis=0)).max() < graph.tensors["logits"].scale
    assert np.abs(error).max() > 10 * graph.tensors["logits"].scale


@pytest.fixture(scope="module")
def digits():
    """Images (N, 1, 8, 8), of which the first 1200 are for training, and labels."""
    data = load_digits()
    return (data.images * (255 / 16)).round().astype(np.uint8)[:, None], data.target


def test_a_network_trained_on_digits_keeps_its_accuracy(digits):
    images, labels = digits
    training = Training(epochs=6, learning_rate=1e-2, pruning=Pruning(strength=0.3))
    network = Network(replace(ARCHITECTURES["plain"], training=training), seed=0)
    train(network, images[:1200], labels[:1200], seed=0)
    folded = network.fold()
    graph = quantise(folded, images[:1200])
    error = difference(folded, graph, images[1200:])
    accuracy = np.mean(run(graph, images[1200:]).argmax(axis=1) == labels[1200:])
    assert accuracy > 0.9
    assert error.agreement > 0.99
    assert error.mean_square < 1e-3 * float_tensors(folded, images[1200:])["logits"].var()


def test_what_is_trained_with_two_bits_runs_with_two(digits):
    images, labels = digits
    blocks = (Block((conv(6), conv(12)), Pool("max", (2, 2))), Block((conv(12),)))
    training = Training(epochs=8, learning_rate=1e-2, weight_bits=2, pruning=Pruning("none"))
    network = Network(Architecture((1, 8, 8), 10, blocks, training=training), seed=0)
    train(network, images[:1200], labels[:1200], seed=0)
    graph = quantise(network.fold(), images[:1200])
    largest = [np.abs(op.weights).max() for op in graph.ops if isinstance(op, Conv2d)]
    assert largest == [7, 1, 1, 7]
    assert np.mean(run(graph, images[1200:]).argmax(axis=1) == labels[1200:]) > 0.9
