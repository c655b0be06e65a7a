"""The sizes that the method's paper minimises (Fedorov et al., 2019, section 3), read off an integer graph.

ModelSize = ||w||_0; WM1_l = ||x_l||_0 + ||w_l||_0, weights copied to RAM; WM2_l = ||x_l||_0 + ||y_l||_0, weights left in flash.
x_l, y_l: elements of all inputs and of the output of layer l, one byte each whatever their type; w_l: its non-zero weights,
without biases. A network's working memory is that of its neediest layer. What the board really takes, ``deploy.predict`` says.
"""

import math
from dataclasses import dataclass

from sparse_mcu.quant.graph import IntegerGraph, Op
from sparse_mcu.quant.macs import nonzero_weights, op_macs, op_nonzero_macs


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """One operation of the graph, in bytes and multiply-accumulates."""

    name: str
    model_size: int
    working_memory_1: int
    working_memory_2: int
    macs: int
    nonzero_macs: int


def layer_sizes(graph: IntegerGraph) -> tuple[LayerSizes, ...]:
    """Return the sizes of every operation, in execution order."""
    return tuple(_layer_sizes(graph, op) for op in graph.ops)


def _layer_sizes(graph: IntegerGraph, op: Op) -> LayerSizes:
    inputs = sum(math.prod(graph.tensors[name].shape) for name in op.inputs)
    output = graph.tensors[op.name]
    weights = nonzero_weights(op)
    return LayerSizes(
        name=op.name,
        model_size=weights,
        working_memory_1=inputs + weights,
        working_memory_2=inputs + math.prod(output.shape),
        macs=op_macs(op, output),
        nonzero_macs=op_nonzero_macs(op, output),
    )
