"""Small ONNX files, written node by node, and what onnxruntime computes from them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

INPUT = "x"


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
