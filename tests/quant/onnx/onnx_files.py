"""Small ONNX files, written node by node, and what onnxruntime computes from them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INPUT = "x"
RANDOM_SHAPE = (2, 11, 9)


class Net:
    """An ONNX network under construction with random weights; a method appends a node and returns the name of what it writes."""

    def __init__(self, shape, seed=0, opset=17):
        self.rng = np.random.default_rng(seed)
        self.shape, self.opset = shape, opset
        self.nodes, self.constants = [], []

    def node(self, op, *inputs, name=None, **attributes):
        """Append a node; an array among its ``inputs`` becomes an initialiser."""
        output = name or f"{op.lower()}{len(self.nodes)}"
        names = [text if isinstance(text, str) else self.constant(text) for text in inputs]
        self.nodes.append(helper.make_node(op, names, [output], name=output, **attributes))
        return output

    def constant(self, array):
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, *shape):
        """Random weights that keep the size of activations from layer to layer (He et al., 2015)."""
        return self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    def bias(self, count):
        return self.rng.normal(0, 0.2, count).astype(np.float32)

    def conv(self, x, channels_in, channels, kernel=(3, 3), group=1, **attributes):
        weight = self.weight(channels, channels_in // group, *kernel)
        return self.node("Conv", x, weight, self.bias(channels), group=group, **attributes)

    def batch_norm(self, x, channels):
        scale, bias, mean = (self.rng.normal(center, 0.3, channels).astype(np.float32) for center in (1, 0, 0))
        variance = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        return self.node("BatchNormalization", x, scale, bias, mean, variance)

    def relu(self, x):
        return self.node("Relu", x)

    def gemm(self, x, features, classes=4):
        return self.node("Gemm", self.node("Flatten", x), self.weight(classes, features), self.bias(classes), transB=1)

    def save(self, path: Path, output: str) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, self.shape)],
            [helper.make_empty_tensor_value_info(output)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 9
        del model.graph.output[:]
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        known = {value.name: value for value in inferred.graph.value_info}
        model.graph.output.append(known[output])
        onnx.save(model, path)
        return path


class RandomNet(Net):
    """Grows from the last tensor ``x``, of ``channels`` maps of height x width."""

    def __init__(self, seed):
        super().__init__(("N", *RANDOM_SHAPE), seed)
        self.x = INPUT
        self.channels, self.height, self.width = RANDOM_SHAPE
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

    def grown(self):
        """Append a few random operators and a classifier; return its logits."""
        for _ in range(int(self.rng.integers(2, 9))):
            self.grow()
        return self.head()

    def head(self):
        if self.rng.random() < 0.5:
            return self.gemm(self.node("GlobalAveragePool", self.x), self.channels)
        return self.gemm(self.x, self.channels * self.height * self.width)


def runtime_logits(path, images, input_range=(0.0, 1.0)):
    """Return onnxruntime's output for ``images`` (N, C, H, W) of bytes, one at a time, as (N, elements)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    low, high = input_range
    real = (low + images.astype(np.float64) / 255 * (high - low)).astype(np.float32)
    if len(given.shape) == 4 and given.shape[1:] != list(images.shape[1:]):
        real = real.transpose(0, 2, 3, 1)
    shape = (1, *given.shape[1:])
    return np.stack([session.run(None, {given.name: image.reshape(shape)})[0].ravel() for image in real])


def smooth_images(rng, shape, count):
    """Random images whose pixels agree with their neighbours, as in photographs."""
    channels, height, width = shape
    coarse = rng.integers(0, 256, (count, channels, -(-height // 3), -(-width // 3)))
    smooth = coarse.repeat(3, axis=2).repeat(3, axis=3)[:, :, :height, :width]
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
