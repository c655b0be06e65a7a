"""Random graphs must be many-sided, or the differential tests that stand on them prove little."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_mcu.quant.graph import INPUT, Add, AveragePool2d, Conv2d, DepthwiseConv2d, MaxPool2d, digest
from sparse_mcu.quant.interpreter import run_tensors
from sparse_mcu.quant.random_graph import GraphSize, random_graph, random_images
from sparse_mcu.quant.verify import verify


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(1, 16), st.integers(1, 12), st.integers(2, 12))
def test_keeps_every_rule_and_its_size(seed, layers, extent, channels, classes):
    graph = random_graph(np.random.default_rng(seed), GraphSize(layers, extent, channels, classes))
    verify(graph)
    assert 2 <= graph.classes <= classes
    for name, tensor in graph.tensors.items():
        assert max(tensor.shape[:2]) <= extent
        assert name == graph.output or tensor.shape[2] <= max(channels, classes)


def test_the_same_seed_gives_the_same_graph():
    one, same, other = (digest(random_graph(np.random.default_rng(seed))) for seed in (5, 5, 6))
    assert one == same != other


def channel_norms(op):
    axes = (1, 2, 3) if isinstance(op, Conv2d) else (0, 1)
    return np.abs(op.weights.astype(int)).sum(axis=axes)


def test_every_kind_of_operation_occurs():
    seen = Counter()
    for seed in range(300):
        graph = random_graph(np.random.default_rng(seed))
        seen["1-D input"] += graph.tensors[INPUT].shape[0] == 1
        for op in graph.ops:
            seen[type(op)] += 1
            if isinstance(op, Conv2d | DepthwiseConv2d):
                seen["stride"] += max(op.stride) > 1
                seen["uneven padding"] += op.padding[:2] != op.padding[2:]
                seen["zero channel"] += bool((channel_norms(op) == 0).any())
                if isinstance(op, Conv2d) and op.weights.any() and op.weights.min() >= -8 and op.weights.max() <= 7:
                    bits = "two" if np.abs(op.weights).max() == 1 else "four"
                    seen[f"{'sparse' if np.mean(op.weights != 0) < 0.4 else 'dense'} weights of {bits} bits"] += 1
                    seen["least weight of four bits"] += bool((op.weights == -8).any())
                seen["multiplier 255"] += bool((op.multiplier == 255).any())
                seen["shift 31"] += bool((op.shift == 31).any())
                seen["shift 0"] += bool((op.shift == 0).any())
            if isinstance(op, Add):
                seen["add of int16"] += any(graph.tensors[name].dtype == "int16" for name in op.inputs)
                seen["add to int16"] += graph.tensors[op.name].dtype == "int16"
                seen["add of three"] += len(op.inputs) > 2
    kinds = {Conv2d, DepthwiseConv2d, MaxPool2d, AveragePool2d, Add}
    assert kinds <= set(seen)
    assert min(seen.values()) >= 5, seen


def test_most_tensors_vary_within_their_limits():
    shares = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        graph = random_graph(rng)
        tensors = run_tensors(graph, random_images(rng, graph, 3))
        for name, values in tensors.items():
            low, high = graph.tensors[name].limits
            if name != INPUT:
                shares.append(np.mean((values > low) & (values < high)))
    assert np.median(shares) > 0.4
