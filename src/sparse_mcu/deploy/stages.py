"""Which operations one kernel computes together: a convolution takes the max pool behind it along.

Requantisation is monotone, so the largest of a pool's values is the requantised largest sum. The map between the two never
exists, and only one sum of each window of the pool is requantised.
"""

from dataclasses import dataclass

from sparse_mcu.quant.graph import Convolution, IntegerGraph, MaxPool2d, Op

MAX_WINDOW = 255  # of a pool that is taken along: kernels count its windows in 8 bits


@dataclass(frozen=True, slots=True)
class Stage:
    """An operation, and the max pool behind it where a convolution takes one along."""

    op: Op
    pool: MaxPool2d | None = None

    @property
    def name(self) -> str:
        """Of the tensor that is written."""
        return self.op.name if self.pool is None else self.pool.name

    @property
    def windows(self) -> tuple[int, int]:
        """How many windows of a convolution an output is made of, down and across."""
        return (1, 1) if self.pool is None else self.pool.window


def stages(graph: IntegerGraph) -> tuple[Stage, ...]:
    """Return the operations of ``graph`` in order, fused where nothing else reads what lies between."""
    ops = {op.name: op for op in graph.ops}
    readers = [name for op in graph.ops for name in op.inputs]
    fused = {
        op.name: source
        for op in graph.ops
        if isinstance(op, MaxPool2d) and isinstance(source := ops.get(op.inputs[0]), Convolution)
        if readers.count(source.name) == 1 and max(op.window) <= MAX_WINDOW
    }
    taken = {source.name for source in fused.values()}
    return tuple(
        Stage(fused[op.name], op) if isinstance(op, MaxPool2d) and op.name in fused else Stage(op)
        for op in graph.ops
        if op.name not in taken
    )
