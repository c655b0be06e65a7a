"""QDQ networks: weights from their integers, scales as they are given, ReLUs from ranges that begin at zero."""

import numpy as np
import pytest
from onnx_files import INPUT, Net, runtime_logits, smooth_images

from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.graph import Conv2d, MaxPool2d
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.quantise import quantise

SHAPE = (2, 10, 10)


def quantised(net, x, scale, zero_point):
    """Quantise and dequantise an activation."""
    parameters = (np.float32(scale), zero_point)
    return net.node("DequantizeLinear", net.node("QuantizeLinear", x, *parameters), *parameters)


def integer_weight(net, *shape):
    """A weight as int8, per output channel."""
    weight = net.weight(*shape)
    scale = (np.abs(weight).reshape(shape[0], -1).max(axis=1) / 127).astype(np.float32)
    integers = np.rint(weight / scale.reshape(-1, *[1] * (len(shape) - 1))).astype(np.int8)
    return net.node("DequantizeLinear", integers, scale, np.zeros(shape[0], np.int8), axis=0)


@pytest.mark.parametrize("opset", [13, 19])
@pytest.mark.parametrize("zero", [np.int8(-128), np.uint8(0)])
def test_a_quantised_network(opset, zero, tmp_path):
    net = Net(("N", *SHAPE), seed=4, opset=opset)
    x = quantised(net, INPUT, 1 / 255, zero)
    x = quantised(net, net.node("Conv", x, integer_weight(net, 6, 2, 3, 3), net.bias(6)), 0.011, zero)  # no ReLU but this one
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = quantised(net, net.relu(net.node("Conv", x, integer_weight(net, 8, 6, 3, 3), net.bias(8))), 0.02, zero)
    x = quantised(net, net.node("GlobalAveragePool", x), 0.01, zero)
    x = net.node("Gemm", net.node("Flatten", x), integer_weight(net, 4, 8), net.bias(4), transB=1)
    path = net.save(tmp_path / "net.onnx", quantised(net, x, 0.05, type(zero)(int(zero) + 130)))

    images = smooth_images(np.random.default_rng(0), SHAPE, 64)
    network = import_model(read_model(path), SHAPE)
    graph = quantise(network, images)
    assert [type(op) for op in graph.ops][:3] == [Conv2d, MaxPool2d, Conv2d]
    assert graph.tensors[graph.ops[0].name].scale == np.float32(0.011)
    assert graph.tensors[graph.ops[2].name].scale == np.float32(0.02)
    expected = runtime_logits(path, images)
    real = run(graph, images) * graph.tensors[graph.output].scale
    assert np.abs(real - expected).max() < 0.1, "two steps of the file's own logits"
    logits = float_tensors(network, images)[graph.output][:, 0, 0]
    assert np.abs(logits - expected).max() < 0.1


def test_signed_activations_are_scaled_anew(tmp_path):
    net = Net(("N", *SHAPE))
    x = quantised(net, net.conv(INPUT, 2, 6), 0.02, np.int8(3))
    x = quantised(net, net.relu(net.conv(x, 6, 6, pads=[1, 1, 1, 1])), 0.02, np.int8(-128))
    path = net.save(tmp_path / "net.onnx", net.gemm(net.node("GlobalAveragePool", x), 6))
    images = smooth_images(np.random.default_rng(0), SHAPE, 64)
    expected = runtime_logits(path, images)
    graph = quantise(import_model(read_model(path), SHAPE), images)
    real = run(graph, images) * graph.tensors[graph.output].scale
    assert np.square(real - expected).mean() < 0.01 * np.square(expected).mean()
