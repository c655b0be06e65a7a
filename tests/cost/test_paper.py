import numpy as np
import pytest

from sparse_mcu.cost.paper import LayerSizes, layer_sizes
from sparse_mcu.quant.graph import INPUT, Add, Conv2d, DepthwiseConv2d, IntegerGraph, MaxPool2d, TensorType
from sparse_mcu.quant.interpreter import run_tensors
from sparse_mcu.quant.random_graph import random_graph, random_images


def residual() -> IntegerGraph:
    """A 6x4x1 input -> 2 channels (3 of 18 weights left) -> depthwise (8 of 8) -> add -> pool -> 5 logits (7 of 60)."""
    ones = np.ones(5, np.int32)

    def weights(shape: tuple[int, ...], left: int) -> np.ndarray:
        flat = np.zeros(shape, np.int8)
        flat.ravel()[:left] = -3
        return flat

    conv = Conv2d("conv", (INPUT,), weights((2, 3, 3, 1), 3), ones[:2], ones[:2], ones[:2], padding=(1, 1, 1, 1))
    depthwise = DepthwiseConv2d("depthwise", ("conv",), weights((2, 2, 2), 8), ones[:2], ones[:2], ones[:2], padding=(0, 0, 1, 1))
    add = Add("add", ("conv", "depthwise"), (1, 1), 1)
    pool = MaxPool2d("pool", ("add",), (2, 2))
    logits = Conv2d("logits", ("pool",), weights((5, 3, 2, 2), 7), ones, ones, ones)
    shapes = {
        INPUT: (6, 4, 1),
        "conv": (6, 4, 2),
        "depthwise": (6, 4, 2),
        "add": (6, 4, 2),
        "pool": (3, 2, 2),
        "logits": (1, 1, 5),
    }
    tensors = {name: TensorType(shape, "int16" if name == "logits" else "uint8", 1.0) for name, shape in shapes.items()}
    return IntegerGraph((conv, depthwise, add, pool, logits), tensors)


def test_sizes_counted_by_hand() -> None:
    assert layer_sizes(residual()) == (
        LayerSizes("conv", 3, 24 + 3, 24 + 48, 24 * 18, 24 * 3),
        LayerSizes("depthwise", 8, 48 + 8, 48 + 48, 24 * 8, 24 * 8),
        LayerSizes("add", 0, 96, 96 + 48, 0, 0),
        LayerSizes("pool", 0, 48, 48 + 12, 0, 0),
        LayerSizes("logits", 7, 12 + 7, 12 + 5, 60, 7),
    )


@pytest.mark.parametrize("seed", range(10))
def test_sizes_are_those_of_the_arrays_that_a_run_touches(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    tensors = run_tensors(graph, random_images(rng, graph, 1))
    for op, sizes in zip(graph.ops, layer_sizes(graph), strict=True):
        read = sum(tensors[name].size for name in op.inputs)
        weights = [w for w in getattr(op, "weights", np.zeros(0)).ravel().tolist() if w != 0]
        assert sizes.name == op.name
        assert sizes.model_size == len(weights)
        assert sizes.working_memory_1 == read + len(weights)
        assert sizes.working_memory_2 == read + tensors[op.name].size
