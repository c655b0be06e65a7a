"""Multiply-accumulates of an integer graph: taps that fall on padding count, as in ``space.layers``; pools, additions do not."""

import numpy as np

from sparse_mcu.quant.graph import Conv2d, DepthwiseConv2d, IntegerGraph, Op, TensorType


def macs(graph: IntegerGraph) -> int:
    """Return the multiply-accumulates of one inference if every weight is multiplied."""
    return sum(op_macs(op, graph.tensors[op.name]) for op in graph.ops)


def nonzero_macs(graph: IntegerGraph) -> int:
    """Return the multiply-accumulates of one inference that are left when zero weights are skipped."""
    return sum(op_nonzero_macs(op, graph.tensors[op.name]) for op in graph.ops)


def op_macs(op: Op, output: TensorType) -> int:
    """Return the multiply-accumulates of ``op``: each weight meets every output position once."""
    return op.weights.size * _positions(output) if isinstance(op, Conv2d | DepthwiseConv2d) else 0


def op_nonzero_macs(op: Op, output: TensorType) -> int:
    """Return the multiply-accumulates of ``op`` whose weight is not zero."""
    return nonzero_weights(op) * _positions(output)


def nonzero_weights(op: Op) -> int:
    """Return the number of weights of ``op`` that are not zero; biases are not weights."""
    return int(np.count_nonzero(op.weights)) if isinstance(op, Conv2d | DepthwiseConv2d) else 0


def _positions(output: TensorType) -> int:
    height, width, _ = output.shape
    return height * width
