"""Random chains of operators with residuals and concatenations, against onnxruntime: the operators together."""

import numpy as np
import pytest
from onnx_files import INPUT, Net, runtime_logits, smooth_images

from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.quantise import quantise

SHAPE = (2, 11, 9)
NETWORKS = 40


class RandomNet(Net):
    """Grows from the last tensor ``x``, of ``channels`` maps of height x width."""

    def __init__(self, seed):
        super().__init__(("N", *SHAPE), seed)
        self.x = INPUT
        self.channels, self.height, self.width = SHAPE
        self.seen = []  # tensors of the present shape

    def grow(self):
        kinds = [
            "convolution",
            "pointwise",
            "grouped",
            "normalise",
            "activate",
            "clip",
            "scale",
            "pool",
            "residual",
            "concatenate",
        ]
        getattr(self, self.rng.choice(kinds, p=[0.2, 0.1, 0.1, 0.1, 0.2, 0.05, 0.05, 0.1, 0.05, 0.05]))()

    def convolution(self):
        kernel = [int(k) for k in self.rng.integers(1, 4, 2)]
        pads = [int(self.rng.integers(0, k)) for k in kernel * 2]
        strides = [int(s) for s in self.rng.choice([1, 1, 2], 2)]
        extents = [n + pads[axis] + pads[axis + 2] for axis, n in enumerate((self.height, self.width))]
        if any(k > n for k, n in zip(kernel, extents, strict=True)):
            return
        channels = int(self.rng.integers(2, 8))
        self.x = self.conv(self.x, self.channels, channels, tuple(kernel), pads=pads, strides=strides)
        height, width = ((n - k) // s + 1 for n, k, s in zip(extents, kernel, strides, strict=True))
        self.reshaped(channels, height, width)

    def pointwise(self):
        channels = int(self.rng.integers(2, 8))
        self.x = self.conv(self.x, self.channels, channels, (1, 1))
        self.reshaped(channels, self.height, self.width)

    def grouped(self):
        groups = int(self.rng.choice([g for g in range(1, self.channels + 1) if self.channels % g == 0]))
        channels = groups * int(self.rng.integers(1, 3))
        self.x = self.conv(self.x, self.channels, channels, (3, 3), group=groups, pads=[1, 1, 1, 1])
        self.reshaped(channels, self.height, self.width)

    def normalise(self):
        self.x = self.batch_norm(self.x, self.channels)
        self.seen.append(self.x)

    def activate(self):
        self.x = self.relu(self.x)
        self.seen.append(self.x)

    def clip(self):
        self.x = self.node("Clip", self.x, np.float32(0), np.float32(self.rng.uniform(0.5, 3)))

    def scale(self):
        gain = self.rng.uniform(0.5, 1.5, (self.channels, 1, 1)) * self.rng.choice([-1, 1], (self.channels, 1, 1))
        self.x = self.node("Sub", self.node("Mul", self.x, gain.astype(np.float32)), np.float32(self.rng.normal(0, 0.2)))
        self.seen.append(self.x)

    def pool(self):
        if self.height < 4 or self.width < 4:
            return
        op = str(self.rng.choice(["MaxPool", "AveragePool"]))
        self.x = self.node(op, self.x, kernel_shape=[2, 2], strides=[2, 2])
        self.reshaped(self.channels, self.height // 2, self.width // 2)

    def residual(self):
        other = self.seen[int(self.rng.integers(len(self.seen)))] if self.seen else self.x
        self.x = self.node("Add", self.x, other)
        self.seen.append(self.x)

    def concatenate(self):
        branch = self.relu(self.conv(self.x, self.channels, 3, (1, 1)))
        self.x = self.node("Concat", self.x, branch, axis=1)
        self.reshaped(self.channels + 3, self.height, self.width)

    def reshaped(self, channels, height, width):
        self.channels, self.height, self.width = channels, height, width
        self.seen = [self.x]

    def head(self):
        if self.rng.random() < 0.5:
            return self.gemm(self.node("GlobalAveragePool", self.x), self.channels)
        return self.gemm(self.x, self.channels * self.height * self.width)


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_any_chain_computes_what_onnxruntime_does(seed, tmp_path):
    net = RandomNet(seed)
    for _ in range(int(net.rng.integers(2, 9))):
        net.grow()
    path = net.save(tmp_path / "net.onnx", net.head())
    images = smooth_images(np.random.default_rng(seed), SHAPE, 24)
    expected = runtime_logits(path, images)
    network = import_model(read_model(path), SHAPE)
    logits = float_tensors(network, images)[network[-1].layer.name][:, 0, 0]
    size = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * size)
    graph = quantise(network, images)
    real = run(graph, images) * graph.tensors[graph.output].scale
    assert np.square(real - logits).mean() < 0.05 * np.square(logits).mean()
