"""Random chains of operators with residuals and concatenations, against onnxruntime: the operators together."""

import numpy as np
import pytest
from onnx_files import RANDOM_SHAPE, RandomNet, runtime_logits, smooth_images

from sparse_mcu.quant.floating import float_tensors
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.onnx import import_model, read_model
from sparse_mcu.quant.quantise import quantise

NETWORKS = 40


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_any_chain_computes_what_onnxruntime_does(seed, tmp_path):
    net = RandomNet(seed)
    path = net.save(tmp_path / "net.onnx", net.grown())
    images = smooth_images(np.random.default_rng(seed), RANDOM_SHAPE, 24)
    expected = runtime_logits(path, images)
    network = import_model(read_model(path), RANDOM_SHAPE)
    logits = float_tensors(network, images)[network[-1].layer.name][:, 0, 0]
    size = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * size)
    graph = quantise(network, images)
    real = run(graph, images) * graph.tensors[graph.output].scale
    assert np.square(real - logits).mean() < 0.05 * np.square(logits).mean()
