import itertools

import numpy as np
import pytest

from sparse_mcu.quant.graph import INPUT, Conv2d, DepthwiseConv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.macs import macs, nonzero_macs, nonzero_weights
from sparse_mcu.quant.random_graph import random_graph


def multiplications(graph: IntegerGraph) -> list[int]:
    """Walk the loops of every convolution and note each weight that is multiplied."""
    met = []
    for op in graph.ops:
        if not isinstance(op, Conv2d | DepthwiseConv2d):
            continue
        height, width, channels = graph.tensors[op.name].shape
        for _, _, o in itertools.product(range(height), range(width), range(channels)):
            met += (op.weights[o] if isinstance(op, Conv2d) else op.weights[..., o]).ravel().tolist()
    return met


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_those_of_the_loops(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed))
    weights = multiplications(graph)
    assert macs(graph) == len(weights)
    assert nonzero_macs(graph) == len(weights) - weights.count(0)


def test_a_network_counted_by_hand() -> None:
    ones = np.ones(3, np.int32)
    sparse = np.array([[0, 5], [-7, 0], [0, 0]], np.int8).reshape(3, 1, 1, 2)
    conv = Conv2d("conv", (INPUT,), sparse, bias=9 * ones, multiplier=ones, shift=ones)  # 4x4 positions
    pool = MaxPool2d("pool", ("conv",), (2, 2))
    depthwise = DepthwiseConv2d("logits", ("pool",), np.ones((2, 2, 3), np.int8), ones, ones, ones)  # 1 position
    shapes = {INPUT: (4, 4, 2), "conv": (4, 4, 3), "pool": (2, 2, 3), "logits": (1, 1, 3)}
    tensors = {name: TensorType(shape, "int16" if name == "logits" else "uint8", 1.0) for name, shape in shapes.items()}
    graph = IntegerGraph((conv, pool, depthwise), tensors)
    assert macs(graph) == 16 * 6 + 12
    assert nonzero_macs(graph) == 16 * 2 + 12
    assert [nonzero_weights(op) for op in graph.ops] == [2, 0, 12]
