import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool
from sparse_mcu.space.layers import INPUT, LOGITS, Layer, Shape, conv_shape, layers, pool_shape

torch.set_num_threads(1)  # the maps are tiny: threads would only wait for each other


def conv(channels: int, kernel: int = 3, **options: object) -> Conv:
    return Conv("regular", (kernel, kernel), channels, **options)  # type: ignore[arg-type]


def network(*blocks: Block, shape: Shape = (1, 8, 8), classes: int = 10, **options: object) -> Architecture:
    return Architecture(shape, classes, blocks, **options)  # type: ignore[arg-type]


def by_name(architecture: Architecture) -> dict[str, Layer]:
    return {layer.name: layer for layer in layers(architecture)}


sizes = st.integers(1, 9)
kernels = st.tuples(st.integers(1, 7), st.integers(1, 7))
strides = st.tuples(st.integers(1, 4), st.integers(1, 4))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # only that torch copies the input
@settings(max_examples=300, deadline=None)
@given(sizes, sizes, kernels, strides)
def test_same_padding_is_torchs_then_strided(height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    layer = by_name(network(Block((Conv("regular", kernel, 3, stride),)), shape=(2, height, width)))["block0.conv0"]
    image = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    assert layer.weight_shape == (3, 2, *kernel)
    weight = torch.randn(layer.weight_shape, generator=torch.Generator().manual_seed(1))
    top, left, bottom, right = layer.padding
    ours = functional.conv2d(functional.pad(image, (left, right, top, bottom)), weight, stride=stride)
    # torch has no "same" padding with strides; at stride 1 it is ours, and a stride keeps every so many rows and columns
    torchs = functional.conv2d(image, weight, padding="same")[:, :, :: stride[0], :: stride[1]]
    assert layer.out_shape == tuple(ours.shape[1:])
    torch.testing.assert_close(ours, torchs)


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, kernels, strides)
def test_valid_padding_is_torchs(height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    layer = Conv("regular", kernel, 3, stride, "valid")
    if kernel[0] > height or kernel[1] > width:
        with pytest.raises(ArchitectureError, match="a kernel must fit its input, but here has kernel"):
            conv_shape("here", (2, height, width), layer)
    else:
        out = functional.conv2d(torch.zeros(1, 2, height, width), torch.zeros(3, 2, *kernel), stride=stride)
        assert conv_shape("here", (2, height, width), layer) == tuple(out.shape[1:])


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_pool_shape_is_torchs(height: int, width: int, window: tuple[int, int]) -> None:
    pool = Pool("max", window)
    if window[0] > height or window[1] > width:
        with pytest.raises(ArchitectureError, match="a pooling window must fit its input, but here is"):
            pool_shape("here", (2, height, width), pool)
    else:
        out = functional.max_pool2d(torch.zeros(1, 2, height, width), window)
        assert pool_shape("here", (2, height, width), pool) == tuple(out.shape[1:])


def test_a_plain_network() -> None:
    blocks = Block((conv(4, padding="valid"),), pool=Pool("max", (2, 2))), Block((conv(8, stride=(2, 2)),))
    assert layers(network(*blocks)) == (
        Layer("block0.conv0", "conv", (INPUT,), (1, 8, 8), (4, 6, 6), (3, 3), batch_norm=True, relu=True),
        Layer("block0.pool", "max_pool", ("block0.conv0",), (4, 6, 6), (4, 3, 3), (2, 2), (2, 2)),
        Layer("block1.conv0", "conv", ("block0.pool",), (4, 3, 3), (8, 2, 2), (3, 3), (2, 2), (1, 1, 1, 1), True, True),
        Layer(LOGITS, "linear", ("block1.conv0",), (8, 2, 2), (10, 1, 1), (2, 2)),
    )


def test_downsampling_comes_first() -> None:
    first = layers(network(Block((conv(4),)), downsample=Pool("average", (2, 2))))[0]
    assert first == Layer("downsample", "average_pool", (INPUT,), (1, 8, 8), (1, 4, 4), (2, 2), (2, 2))


def test_separable_is_depthwise_then_pointwise() -> None:
    separable = Conv("separable", (3, 5), 6, stride=(2, 1), batch_norm=False)
    depthwise, pointwise, _ = layers(network(Block((separable,)), shape=(2, 8, 8)))
    assert depthwise == Layer(
        "block0.conv0.depthwise", "depthwise", (INPUT,), (2, 8, 8), (2, 4, 8), (3, 5), (2, 1), (1, 2, 1, 2), relu=True
    )
    assert pointwise == Layer("block0.conv0.pointwise", "conv", (depthwise.name,), (2, 4, 8), (6, 4, 8), relu=True)
    assert depthwise.weight_shape == (2, 1, 3, 5)
    assert pointwise.weight_shape == (6, 2, 1, 1)


def test_reduced_is_pointwise_then_full() -> None:
    reduced = Conv("reduced", (3, 3), 6, padding="valid", reduced_channels=2)
    reduce, full, _ = layers(network(Block((reduced,)), shape=(4, 8, 8)))
    assert (reduce.name, reduce.weight_shape, reduce.out_shape) == ("block0.conv0.reduce", (2, 4, 1, 1), (2, 8, 8))
    assert (full.name, full.weight_shape, full.out_shape) == ("block0.conv0.full", (6, 2, 3, 3), (6, 6, 6))


def test_a_residual_adds_the_input_of_the_last_two_convolutions() -> None:
    block = Block((conv(4), conv(2), conv(4)), residual=True, pool=Pool("max", (2, 2)))
    built = by_name(network(block))
    assert built["block0.add"].inputs == ("block0.conv0", "block0.conv2")
    assert built["block0.pool"].inputs == ("block0.add",)


def test_branches_are_summed_at_the_logits() -> None:
    names = [layer.name for layer in layers(network(Block((conv(4),), branch=True), Block((conv(2, stride=(2, 2)),))))]
    assert names == ["block0.conv0", "head0.linear", "block1.conv0", "head1.linear", LOGITS]
    built = by_name(network(Block((conv(4),), branch=True), Block((conv(2, stride=(2, 2)),))))
    assert built["block1.conv0"].inputs == ("block0.conv0",)
    assert built["head0.linear"].weight_shape == (10, 4 * 64)
    assert built["head1.linear"].weight_shape == (10, 2 * 16)
    assert built[LOGITS] == Layer(LOGITS, "add", ("head0.linear", "head1.linear"), (10, 1, 1), (10, 1, 1))


def test_a_hidden_layer_sums_branches_before_its_relu() -> None:
    blocks = Block((conv(4),), branch=True), Block((conv(2),))
    built = by_name(network(*blocks, head=Head("global", hidden=16)))
    assert built["head0.global"].out_shape == (4, 1, 1)
    assert (built["head0.linear"].out_shape, built["head0.linear"].relu) == ((16, 1, 1), False)
    assert (built["hidden"].op, built["hidden"].relu) == ("add", True)
    assert built[LOGITS].weight_shape == (10, 16)


def test_a_single_hidden_layer_is_linear_with_relu() -> None:
    built = by_name(network(Block((conv(4),)), head=Head(hidden=16)))
    assert (built["hidden"].op, built["hidden"].relu, built["hidden"].weight_shape) == ("linear", True, (16, 256))
    assert built[LOGITS].inputs == ("hidden",)


def test_the_last_blocks_branch_changes_nothing() -> None:
    assert layers(network(Block((conv(4),), branch=True))) == layers(network(Block((conv(4),))))


def test_a_global_head_on_a_single_pixel_needs_no_pool() -> None:
    built = by_name(network(Block((conv(4, kernel=8, padding="valid"),)), head=Head("global")))
    assert list(built) == ["block0.conv0", LOGITS]


def test_a_signal_has_one_row() -> None:
    block = Block((Conv("regular", (1, 5), 4, stride=(1, 2)),), pool=Pool("max", (1, 3)))
    built = by_name(network(block, shape=(3, 1, 32)))
    assert built["block0.conv0"].out_shape == (4, 1, 16)
    assert built["block0.pool"].out_shape == (4, 1, 5)


def test_weights_and_macs_by_hand() -> None:
    built = by_name(network(Block((conv(4, padding="valid"), conv(8, kernel=1)), pool=Pool("max", (2, 2)))))
    assert (built["block0.conv0"].weights, built["block0.conv0"].macs) == (4 * 9, 4 * 9 * 36)
    assert (built["block0.conv1"].weights, built["block0.conv1"].macs) == (32, 32 * 36)
    assert (built["block0.pool"].weight_shape, built["block0.pool"].weights, built["block0.pool"].macs) == (None, 0, 0)
    assert (built[LOGITS].weights, built[LOGITS].macs) == (10 * 72, 10 * 72)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (network(), "at least one block, but has none"),
        (network(Block(())), "block0 has none"),
        (network(Block((conv(4),)), classes=1), "at least 2 classes, but has 1"),
        (network(Block((conv(4),)), shape=(1, 0, 8)), "input_shape must be at least 1"),
        (network(Block((conv(0),))), r"block0\.conv0\.channels, kernel and stride must be at least 1"),
        (network(Block((conv(4, stride=(0, 1)),))), "must be at least 1"),
        (network(Block((conv(4, kernel=9, padding="valid"),))), r"block0\.conv0 has kernel 9 on 8"),
        (network(Block((conv(4),), pool=Pool("max", (9, 1)))), r"block0\.pool is \(9, 1\) on \(8, 8\)"),
        (network(Block((conv(4),)), downsample=Pool("max", (0, 1))), r"downsample\.window must be at least 1"),
        (network(Block((conv(4),), residual=True)), "block0 has 1"),
        (network(Block((conv(4), conv(4)), residual=True)), r"block0 joins \(1, 8, 8\) and \(4, 8, 8\)"),
        (network(Block((Conv("reduced", (3, 3), 4),))), "reduced_channels goes with kind 'reduced'"),
        (network(Block((conv(4, reduced_channels=2),))), "reduced_channels goes with kind 'reduced'"),
        (network(Block((Conv("reduced", (3, 3), 4, reduced_channels=0),))), r"block0\.conv0\.reduce"),
        (network(Block((conv(4),)), head=Head(hidden=0)), r"head\.hidden must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_named(architecture: Architecture, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        layers(architecture)


def test_every_layer_follows_those_it_reads() -> None:
    blocks = Block((conv(4),), branch=True), Block((conv(4), conv(4)), residual=True, branch=True), Block((conv(2),))
    shapes: dict[str, Shape] = {INPUT: (1, 8, 8)}
    for layer in layers(network(*blocks, head=Head(hidden=8))):
        assert all(shapes[name] == layer.in_shape for name in layer.inputs)
        assert math.prod(layer.out_shape) > 0
        shapes[layer.name] = layer.out_shape
    assert shapes[LOGITS] == (10, 1, 1)
