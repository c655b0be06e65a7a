"""Every operator against onnxruntime: the float layers to 1e-4, the integer graph to a share of what the logits vary."""

import numpy as np
import pytest
from onnx_files import INPUT, Net, runtime_logits, smooth_images

from sparse_mcu.errors import NetworkError
from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.graph import AveragePool2d, Conv2d, DepthwiseConv2d
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.quantise import quantise

SHAPE = (3, 12, 12)
ONNX_SHAPE = ("N", 3, 12, 12)


def f32(*values):
    return np.array(values, np.float32)


def i64(*values):
    return np.array(values, np.int64)


def whole_head(net, x, channels):
    """A global average and the classifier."""
    return net.gemm(net.node("GlobalAveragePool", x), channels)


def plain(net):
    x = net.relu(net.conv(INPUT, 3, 6, pads=[1, 1, 1, 1]))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.gemm(net.relu(net.conv(x, 6, 8, (3, 2), strides=[1, 2])), 8 * 4 * 3)


def softmax_behind(net):
    return net.node("Softmax", plain(net))


def depthwise(net):
    x = net.node("Clip", net.conv(INPUT, 3, 6), f32(0).reshape(()), f32(6).reshape(()))
    x = net.node("Clip", net.conv(x, 6, 6, group=6, pads=[0, 1, 2, 1]), f32(0).reshape(()), f32(0.8).reshape(()))
    return whole_head(net, net.relu(net.conv(x, 6, 8, (1, 1))), 8)


def grouped(net):
    x = net.relu(net.conv(INPUT, 3, 8))
    x = net.relu(net.conv(x, 8, 12, group=4, strides=[2, 2]))
    return whole_head(net, net.relu(net.conv(x, 12, 24, group=12)), 24)


def dilated(net):
    return whole_head(net, net.relu(net.conv(INPUT, 3, 6, (3, 2), dilations=[2, 3], pads=[2, 1, 2, 2])), 6)


def same_padding(net):
    x = net.relu(net.conv(INPUT, 3, 6, (3, 3), auto_pad="SAME_UPPER", strides=[2, 2]))
    return whole_head(net, net.relu(net.conv(x, 6, 5, (2, 2), auto_pad="SAME_LOWER")), 5)


def pad_node(net):
    x = net.node("Pad", INPUT, i64(0, 0, 0, 1, 0, 0, 2, 1))
    x = net.relu(net.conv(x, 3, 6, strides=[2, 2]))
    return whole_head(net, x, 6)


def batch_norm_behind_conv(net):
    x = net.relu(net.batch_norm(net.conv(INPUT, 3, 6), 6))
    return whole_head(net, net.relu(net.batch_norm(net.conv(x, 6, 6), 6)), 6)


def batch_norm_before_conv(net):
    x = net.relu(net.conv(INPUT, 3, 6))
    x = net.conv(net.batch_norm(x, 6), 6, 8)
    return whole_head(net, net.relu(x), 8)


def batch_norm_then_padded_conv(net):
    x = net.node("Add", net.node("Mul", net.relu(net.conv(INPUT, 3, 6)), f32(0.5)), f32(0.25))
    return whole_head(net, net.relu(net.conv(x, 6, 8, pads=[1, 1, 1, 1])), 8)


def residual(net):
    x = net.relu(net.conv(INPUT, 3, 6))
    y = net.batch_norm(net.conv(net.relu(net.conv(x, 6, 6, pads=[1, 1, 1, 1])), 6, 6, pads=[1, 1, 1, 1]), 6)
    return whole_head(net, net.relu(net.node("Add", x, y)), 6)


def linear_bottlenecks(net):
    """MobileNetV2: what is added, and what the next layer expands, is signed."""
    x = net.conv(net.relu(net.conv(INPUT, 3, 8)), 8, 4, (1, 1))
    for _ in range(2):
        y = net.relu(net.conv(x, 4, 12, (1, 1)))
        y = net.relu(net.conv(y, 12, 12, group=12, pads=[1, 1, 1, 1]))
        x = net.node("Add", x, net.conv(y, 12, 4, (1, 1)))
    return whole_head(net, net.relu(net.conv(x, 4, 8, (1, 1))), 8)


def activation_after_signed_sum(net):
    """The sum is read both as it is and through a ReLU."""
    x = net.conv(INPUT, 3, 4)
    y = net.node("Add", x, net.conv(net.relu(x), 4, 4, pads=[1, 1, 1, 1]))
    return whole_head(net, net.relu(net.node("Add", net.relu(y), net.conv(y, 4, 4, (1, 1)))), 4)


def relu_behind_max_pool(net):
    x = net.node("MaxPool", net.conv(INPUT, 3, 6), kernel_shape=[2, 2], strides=[2, 2])
    return net.gemm(net.relu(net.batch_norm(x, 6)), 6 * 25)


def relu_behind_average_pool(net):
    x = net.node("AveragePool", net.conv(INPUT, 3, 6), kernel_shape=[2, 2], strides=[2, 2])
    return net.gemm(net.relu(x), 6 * 25)


def negative_gain_before_max_pool(net):
    x = net.node("Mul", net.relu(net.conv(INPUT, 3, 6)), f32(-1, 2, 0.5, -0.3, 1, 1).reshape(6, 1, 1))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[3, 3])
    return net.gemm(x, 6 * 9)


def overlapping_average(net):
    x = net.relu(net.conv(INPUT, 3, 6))
    x = net.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    return net.gemm(x, 6 * 25)


def logits_from_pool(net):
    """As SqueezeNet: a global average ends it."""
    return net.node("Flatten", net.node("GlobalAveragePool", net.relu(net.conv(net.relu(net.conv(INPUT, 3, 6)), 6, 4, (1, 1)))))


def logits_from_signed_pool(net):
    return net.node("ReduceMean", net.conv(net.relu(net.conv(INPUT, 3, 6)), 6, 4, (1, 1)), axes=[2, 3], keepdims=0)


def global_max(net):
    return net.gemm(net.node("GlobalMaxPool", net.relu(net.conv(INPUT, 3, 6))), 6)


def hidden_layers(net):
    x = net.node("MaxPool", INPUT, kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Reshape", x, i64(0, -1))
    x = net.relu(net.node("Add", net.node("MatMul", x, net.weight(16, 108).T), net.bias(16)))
    x = net.node("Dropout", net.node("Identity", x))
    return net.node("Add", net.bias(4), net.node("MatMul", x, net.weight(4, 16).T))


def gemm_factors(net):
    x = net.relu(net.gemm(INPUT, 432, 10))
    return net.node("Gemm", x, net.weight(4, 10).T.copy(), net.bias(1), alpha=0.5, beta=2.0)


def shape_by_hand(net):
    """``x.view(x.size(0), -1)`` as PyTorch writes it."""
    x = net.relu(net.conv(INPUT, 3, 4))
    batch = net.node("Unsqueeze", net.node("Gather", net.node("Shape", x), i64(0).reshape(())), i64(0))
    x = net.node("Reshape", x, net.node("Concat", batch, i64(-1), axis=0))
    return net.node("Gemm", x, net.weight(4, 400), net.bias(4), transB=1)


def channels_last(net):
    """As tf2onnx writes what Keras flattens."""
    x = net.relu(net.conv(net.node("Transpose", INPUT, perm=[0, 3, 1, 2]), 3, 4))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.gemm(net.node("Transpose", x, perm=[0, 2, 3, 1]), 100)


def mean_of_channels_last(net):
    x = net.node("Transpose", net.relu(net.conv(INPUT, 3, 5)), perm=[0, 2, 3, 1])
    return net.gemm(net.node("ReduceMean", x, axes=[1, 2]), 5)


def concatenated_maps(net):
    """As in an inception: what reads the concatenation is a sum of what reads its parts."""
    x = net.relu(net.conv(INPUT, 3, 6))
    left, right = net.conv(x, 6, 4, (1, 1)), net.conv(x, 6, 5, (3, 3), pads=[1, 1, 1, 1])
    x = net.relu(net.batch_norm(net.node("Concat", left, right, axis=1), 9))
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.relu(net.batch_norm(net.conv(x, 9, 8, pads=[1, 1, 1, 1]), 8))
    return whole_head(net, x, 8)


def concatenated_with_depthwise(net):
    x = net.relu(net.conv(INPUT, 3, 4))
    y = net.node("Concat", x, net.relu(net.conv(x, 4, 4, pads=[1, 1, 1, 1])), axis=1)
    return whole_head(net, net.relu(net.conv(y, 8, 8, group=8)), 8)


def concatenated_vectors(net):
    x = net.relu(net.conv(INPUT, 3, 4))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    flat = net.node("Flatten", net.node("MaxPool", x, kernel_shape=[5, 5], strides=[5, 5]))
    return net.node("Gemm", net.node("Concat", pooled, flat, axis=-1), net.weight(4, 20), net.bias(4), transB=1)


def normalised_input(net):
    x = net.node("Div", net.node("Sub", INPUT, f32(0.48, 0.45, 0.4).reshape(1, 3, 1, 1)), f32(0.2, 0.3, 0.25).reshape(3, 1, 1))
    return whole_head(net, net.relu(net.conv(x, 3, 6)), 6)


def normalised_and_padded_input(net):
    x = net.node("Mul", net.node("Sub", INPUT, f32(0.5)), f32(2))
    return whole_head(net, net.relu(net.conv(x, 3, 6, (5, 5), pads=[2, 2, 2, 2])), 6)


def padded_signed_maps(net):
    """Nothing activates them; one is read twice, another by a depthwise convolution."""
    x = net.conv(net.conv(INPUT, 3, 6), 6, 6, pads=[1, 0, 2, 1])
    y = net.conv(x, 6, 6, pads=[1, 1, 1, 1], group=6)
    return whole_head(net, net.relu(net.node("Add", net.conv(y, 6, 5, (1, 1)), net.conv(x, 6, 5, pads=[1, 1, 1, 1]))), 5)


def padded_signed_sum(net):
    """Pre-activation: the sum goes on as it is, and normalised, activated and padded."""
    x = net.conv(INPUT, 3, 4)
    x = net.node("Add", x, net.conv(net.relu(net.batch_norm(x, 4)), 4, 4, pads=[1, 1, 1, 1]))
    return whole_head(net, net.relu(net.conv(net.batch_norm(x, 4), 4, 6, pads=[1, 1, 1, 1])), 6)


def summed_with_itself(net):
    x = net.relu(net.conv(INPUT, 3, 6))
    return whole_head(net, net.node("Sum", x, x, net.relu(net.conv(x, 6, 6, (1, 1)))), 6)


def constant_minus(net):
    x = net.node("Sub", f32(1), net.relu(net.conv(INPUT, 3, 6)))
    return whole_head(net, net.relu(net.conv(x, 6, 6)), 6)


NETWORKS = (
    plain,
    softmax_behind,
    depthwise,
    grouped,
    dilated,
    same_padding,
    pad_node,
    batch_norm_behind_conv,
    batch_norm_before_conv,
    batch_norm_then_padded_conv,
    residual,
    linear_bottlenecks,
    activation_after_signed_sum,
    relu_behind_max_pool,
    relu_behind_average_pool,
    negative_gain_before_max_pool,
    overlapping_average,
    logits_from_pool,
    logits_from_signed_pool,
    global_max,
    hidden_layers,
    gemm_factors,
    shape_by_hand,
    channels_last,
    mean_of_channels_last,
    concatenated_maps,
    concatenated_with_depthwise,
    concatenated_vectors,
    normalised_input,
    normalised_and_padded_input,
    padded_signed_maps,
    padded_signed_sum,
    summed_with_itself,
    constant_minus,
)


def written(build, path, seed=0, shape=ONNX_SHAPE):
    """Write the network that ``build`` makes."""
    net = Net(shape, seed)
    return net.save(path / "net.onnx", build(net))


def assert_agrees(path, images, input_range=(0.0, 1.0), logarithms=False):
    """Compare float layers and integers with onnxruntime; return the integer graph."""
    expected = runtime_logits(path, images, input_range)
    network = import_model(read_model(path), images.shape[1:], input_range)
    logits = float_tensors(network, images)[network[-1].layer.name][:, 0, 0]
    if logarithms:  # of a softmax: logits less a constant
        expected = np.log(expected)
        expected += (logits - expected).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    graph = quantise(network, images)
    real = run(graph, images) * graph.tensors[graph.output].scale
    noise = np.square(real - logits).mean() / np.square(logits - logits.mean(axis=0)).mean()
    assert noise < 0.02, noise
    return graph


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_float_layers_and_integers_compute_what_onnxruntime_does(build, tmp_path):
    shape = ("N", 12, 12, 3) if build is channels_last else ONNX_SHAPE
    path = written(build, tmp_path, shape=shape)
    images = smooth_images(np.random.default_rng(1), SHAPE, 48)
    assert_agrees(path, images, logarithms=build is softmax_behind)


@pytest.mark.parametrize("input_range", [(0.0, 255.0), (-1.0, 1.0), (0.2, 0.7)])
def test_bytes_stand_for_any_range(input_range, tmp_path):
    def unpadded(net):
        scale = f32(2 / (input_range[1] - input_range[0]))
        return whole_head(net, net.relu(net.conv(net.node("Mul", INPUT, scale), 3, 6)), 6)

    images = smooth_images(np.random.default_rng(1), SHAPE, 48)
    graph = assert_agrees(written(unpadded, tmp_path), images, input_range)
    assert len(graph.ops) == 3, "the range lies in the weights"


@pytest.mark.parametrize("rank", [2, 3])
def test_signals_and_vectors(rank, tmp_path):
    def signal(net):
        weight = net.weight(6, 3, 5)
        x = net.relu(net.node("Conv", INPUT, weight, net.bias(6), strides=[2], pads=[2, 2]))
        x = net.node("MaxPool", x, kernel_shape=[3], strides=[3])
        x = net.relu(net.node("Conv", x, net.weight(6, 1, 3), group=6))
        return net.gemm(net.node("GlobalAveragePool", x), 6)

    def vector(net):
        return net.gemm(net.relu(net.gemm(INPUT, 120, 8)), 8)

    shape = ("N", 3, 40) if rank == 3 else ("N", 120)
    net = Net(shape)
    path = net.save(tmp_path / "net.onnx", (signal if rank == 3 else vector)(net))
    images = smooth_images(np.random.default_rng(1), (3, 1, 40), 48)
    assert_agrees(path, images)


def test_nothing_is_appended_where_weights_can_take_it(tmp_path):
    images = smooth_images(np.random.default_rng(1), SHAPE, 16)

    def kinds(build):
        graph = quantise(import_model(read_model(written(build, tmp_path)), SHAPE), images)
        return [type(op) for op in graph.ops]

    assert kinds(batch_norm_behind_conv) == [Conv2d, Conv2d, AveragePool2d, Conv2d]
    assert kinds(batch_norm_before_conv) == [Conv2d, Conv2d, AveragePool2d, Conv2d]
    assert kinds(normalised_input) == [Conv2d, AveragePool2d, Conv2d]
    assert kinds(depthwise) == [Conv2d, DepthwiseConv2d, Conv2d, AveragePool2d, Conv2d]
    assert len(kinds(linear_bottlenecks)) == 13, "as many as it has convolutions, sums and pools"


def test_a_clip_is_kept_by_the_scale(tmp_path):
    network = import_model(read_model(written(depthwise, tmp_path)), SHAPE)
    images = smooth_images(np.random.default_rng(1), SHAPE, 48)
    graph = quantise(network, images)
    assert [folded.ceiling for folded in network[:2]] == [6, pytest.approx(0.8)]
    assert 255 * graph.tensors[graph.ops[1].name].scale <= 0.8 * (1 + 1e-6)


def refused(build, tmp_path, shape=ONNX_SHAPE):
    with pytest.raises(NetworkError) as caught:
        network = import_model(read_model(written(build, tmp_path, shape=shape)), SHAPE)
        quantise(network, smooth_images(np.random.default_rng(1), SHAPE, 16))
    return str(caught.value)


REFUSED = {
    "an operator unknown here": ("Sin", {}, "Sin 'bad'"),
    "a max pool that overlaps": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2]}, "MaxPool 'bad'"),
    "a max pool with padding": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}, "MaxPool 'bad'"),
    "a pool that rounds up": ("AveragePool", {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1}, "AveragePool 'bad'"),
    "an activation that is not flat": ("LeakyRelu", {}, "LeakyRelu 'bad'"),
}


@pytest.mark.parametrize("op, attributes, named", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_expressed_is_named_with_its_node(op, attributes, named, tmp_path):
    def build(net):
        x = net.node(op, net.relu(net.conv(INPUT, 3, 6)), name="bad", **attributes)
        return whole_head(net, x, 6)

    message = refused(build, tmp_path)
    assert named in message and "cannot be compiled" in message and "\n" not in message


def test_images_of_another_shape_are_refused(tmp_path):
    with pytest.raises(NetworkError, match=r"they are 1x8x8 and .*net.onnx takes \?x3x12x12, batch first"):
        import_model(read_model(written(plain, tmp_path)), (1, 8, 8))
