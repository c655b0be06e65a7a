"""What a graph says of itself, and its digest."""

from dataclasses import fields, replace

import numpy as np
import pytest

from sparse_mcu.quant.graph import INPUT, Add, Conv2d, DepthwiseConv2d, IntegerGraph, TensorType, arrays, digest
from sparse_mcu.quant.random_graph import random_graph


@pytest.fixture
def graph():
    """A random graph with every operation that has arrays, and an addition."""
    graphs = (random_graph(np.random.default_rng(seed)) for seed in range(1000))
    return next(g for g in graphs if {Conv2d, DepthwiseConv2d, Add} <= {type(op) for op in g.ops})


def test_limits_are_those_of_the_type():
    for dtype in ("uint8", "int16"):
        limits = np.iinfo(dtype)
        assert TensorType((1, 1, 1), dtype, 1.0).limits == (limits.min, limits.max)


def test_a_copy_has_the_same_digest(graph):
    ops = tuple(
        replace(op, **{f.name: np.copy(v) for f in fields(op) if isinstance(v := getattr(op, f.name), np.ndarray)})
        for op in graph.ops
    )
    assert digest(replace(graph, ops=ops, tensors=dict(reversed(graph.tensors.items())))) == digest(graph)


def test_any_change_changes_the_digest(graph):
    digests = {digest(graph)}
    for array in arrays(graph).values():
        array.flat[-1] ^= 1
        digests.add(digest(graph))
        array.flat[-1] ^= 1
    for index, op in enumerate(graph.ops):
        renamed = (*graph.ops[:index], replace(op, name="renamed"), *graph.ops[index + 1 :])
        digests.add(digest(replace(graph, ops=renamed)))
    input_type = graph.tensors[INPUT]
    digests.add(
        digest(replace(graph, tensors=graph.tensors | {INPUT: replace(input_type, scale=input_type.scale * (1 + 1e-15))}))
    )
    digests.add(digest(replace(graph, ops=graph.ops[::-1])))
    assert len(digests) == 1 + len(arrays(graph)) + len(graph.ops) + 2
    assert digest(graph) in digests


def test_the_digest_of_a_fixed_graph_is_the_same_on_every_machine():
    unset = np.zeros(2, np.int32)
    weights = np.arange(-4, 4, dtype=np.int8).reshape(2, 2, 2, 1)
    conv = Conv2d("conv", (INPUT,), weights, np.array([1, -1], np.int32), unset + 200, unset + 9)
    tensors = {INPUT: TensorType((2, 2, 1), "uint8", 1 / 255), "conv": TensorType((1, 1, 2), "int16", 0.125)}
    assert digest(IntegerGraph((conv,), tensors)) == "76a21bd163e1c6aa30d4bcf784654a71db4991624b9ee9a070f115d7f591f014"
