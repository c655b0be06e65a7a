"""Exported graphs in onnxruntime against the interpreter, tensor by tensor, and read back."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_files import RANDOM_SHAPE, RandomNet, smooth_images

from sparse_mcu.quant.fixedpoint import average_scale
from sparse_mcu.quant.graph import INPUT, AveragePool2d, Conv2d, IntegerGraph, TensorType
from sparse_mcu.quant.interpreter import run, run_tensors
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.onnx.export import IMAGE, LOGITS, integers, qdq_bytes
from sparse_mcu.quant.quantise import quantise


def session(data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # What ORT fuses into integer kernels it rounds and scales in other ways again; as written is what is tested.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def runtime_integers(graph: IntegerGraph, images):
    """Return what onnxruntime makes of every tensor of the exported ``graph``, as (N, H, W, C)."""
    model = onnx.load_from_string(qdq_bytes(graph))
    onnx.checker.check_model(model, full_check=True)
    kinds = {"uint8": onnx.TensorProto.UINT8, "int16": onnx.TensorProto.INT16}
    for name, tensor in graph.tensors.items():
        model.graph.output.append(onnx.helper.make_tensor_value_info(integers(name), kinds[tensor.dtype], None))
    names = [integers(name) for name in graph.tensors]
    found = session(model.SerializeToString()).run(names, {IMAGE: images.astype(np.float32) / np.float32(255)})
    return {name: value.transpose(0, 2, 3, 1) for name, value in zip(graph.tensors, found, strict=True)}


def quantised(seed, folder):
    """Return a random network in integers, and images for it."""
    net = RandomNet(seed)
    path = net.save(folder / "net.onnx", net.grown())
    images = smooth_images(np.random.default_rng(seed), RANDOM_SHAPE, 24)
    return quantise(import_model(read_model(path), RANDOM_SHAPE), images), images


@pytest.mark.parametrize("seed", range(25))
def test_every_tensor_is_that_of_the_interpreter_up_to_a_step_at_a_half(seed, tmp_path):
    graph, images = quantised(seed, tmp_path)
    expected = run_tensors(graph, images)
    found = runtime_integers(graph, images)
    equal = {INPUT}
    for op in graph.ops:
        difference = np.abs(found[op.name].astype(int) - expected[op.name])
        if equal.issuperset(op.inputs):  # else a step in what it reads may be more in what it writes
            assert difference.max() <= 1 and np.count_nonzero(difference) <= max(2, 0.002 * difference.size), op.name
        if not difference.any():
            equal.add(op.name)
    np.testing.assert_array_equal(found[INPUT], expected[INPUT])


@pytest.mark.parametrize("window", [(1, 2), (2, 2), (3, 3), (2, 3), (5, 1), (4, 4)])
def test_means_round_as_the_interpreter_does(window):
    rng = np.random.default_rng(3)
    scales = {INPUT: ((12, 12, 2), "uint8", 1 / 255), "mean": ((12 // window[0], 12 // window[1], 2), "uint8", 1 / 510)}
    scales["logits"] = ((1, 1, 2), "int16", 0.01)
    kernel = scales["mean"][0]
    weights, one = np.ones((2, *kernel), np.int8), np.ones(2, np.int32)
    ops = (
        AveragePool2d("mean", (INPUT,), window, *average_scale(window, 1)),
        Conv2d("logits", ("mean",), weights, one, one, one),
    )
    graph = IntegerGraph(ops, {name: TensorType(*value) for name, value in scales.items()})
    images = rng.integers(0, 256, (50, 2, 12, 12), dtype=np.uint8)
    np.testing.assert_array_equal(runtime_integers(graph, images)["mean"], run_tensors(graph, images)["mean"])


@pytest.mark.parametrize("seed", range(5))
def test_an_exported_graph_is_read_back_as_one_that_computes_alike(seed, tmp_path):
    graph, images = quantised(seed, tmp_path)
    path = tmp_path / "exported.onnx"
    path.write_bytes(qdq_bytes(graph))
    again = quantise(import_model(read_model(path), RANDOM_SHAPE), images)
    logits = run(graph, images) * graph.tensors[graph.output].scale
    others = run(again, images) * again.tensors[again.output].scale
    assert np.square(logits - others).mean() < 0.05 * np.square(logits).mean()
    (real,) = session(path.read_bytes()).run([LOGITS], {IMAGE: images.astype(np.float32) / np.float32(255)})
    assert np.abs(real - logits).max() < 0.02 * np.abs(logits).max()
