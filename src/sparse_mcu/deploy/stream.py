"""Row streaming: the first layers of a network run row by row, and only a few rows of each of their tensors are held at a time.

A line holds the rows of a tensor that its layer still needs. As soon as there are enough of them for a row of the layer's output,
that row is computed and goes to the next line; then rows that no later row of the output needs make room. Zeros above and below
a padded tensor are rows like any other. So a layer that is streamed is the same layer for a shorter input: ``rows`` rows in,
one row out. The image itself comes row by row, and nowhere is all of it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from sparse_mcu.deploy.stages import Stage, stages
from sparse_mcu.quant.graph import INPUT, Add, Conv2d, DepthwiseConv2d, IntegerGraph, TensorType


@dataclass(frozen=True, slots=True)
class Line:
    """The rows of a tensor that are held for the stage that reads it. H: rows of the tensor, H': of the stage's output."""

    tensor: str
    stage: Stage  # as it runs for a row of its output: zeros above and below are among the rows
    rows: int  # needed for a row of the output; as many are held at most
    step: int  # rows from those of an output row to those of the next one
    above: int  # rows of zeros before the first row
    below: int  # rows of zeros behind the last row that an output row still needs
    height: int  # H
    outputs: int  # H'

    def slices(self, graph: IntegerGraph) -> dict[str, TensorType]:
        """Return the types of the rows that the stage reads and writes at a time, by the names of their tensors."""
        return {
            self.tensor: _with_height(graph.tensors[self.tensor], self.rows),
            self.stage.name: _with_height(graph.tensors[self.stage.name], 1),
        }


def _with_height(tensor: TensorType, height: int) -> TensorType:
    return dataclasses.replace(tensor, shape=(height, *tensor.shape[1:]))


def streamable(graph: IntegerGraph) -> tuple[Line, ...]:
    """Return the lines of the longest chain from the input on that can run row by row; any number of its first lines can."""
    readers = [name for op in graph.ops for name in op.inputs]
    lines: list[Line] = []
    tensor = INPUT
    if graph.tensors[INPUT].shape[0] == 1:  # a row is the whole image
        return ()
    for stage in stages(graph):
        if isinstance(stage.op, Add) or stage.op.inputs != (tensor,) or readers.count(tensor) > 1:
            break
        line = _line(graph, stage)
        if line.outputs == 1:  # all rows at once
            break
        lines.append(line)
        tensor = stage.name
    return tuple(lines)


def _line(graph: IntegerGraph, stage: Stage) -> Line:
    tensor = stage.op.inputs[0]
    height, outputs = graph.tensors[tensor].shape[0], graph.tensors[stage.name].shape[0]
    op, above = stage.op, 0
    assert not isinstance(op, Add), "an addition has no rows of its own"
    if isinstance(op, Conv2d | DepthwiseConv2d):
        top, left, _, right = op.padding
        window, down = stage.windows[0], op.stride[0]
        rows, step, above = (window - 1) * down + op.kernel[0], window * down, top
        stage = Stage(dataclasses.replace(op, padding=(0, left, 0, right)), stage.pool)
    else:
        rows = step = op.window[0]
    rows = max(rows, step)  # rows between windows come as well
    below = max(0, (outputs - 1) * step + rows - above - height)
    return Line(tensor, stage, rows, step, above, below, height, outputs)


def running(graph: IntegerGraph, lines: Sequence[Line]) -> tuple[Stage, ...]:
    """Return the stages of ``graph`` as they run where those of ``lines`` are streamed."""
    return (*(line.stage for line in lines), *stages(graph)[len(lines) :])


def rows_before_the_end(lines: Sequence[Line]) -> int:
    """Return how many rows the last of ``lines`` has given while the first one still holds or takes rows."""
    first, *rest = lines
    rows = first.outputs - 1
    if first.above + first.height > (first.outputs - 1) * first.step + first.rows:  # rows that nobody reads come behind the last
        rows = first.outputs
    for line in rest:
        come = line.above + rows + (line.below if rows == line.height else 0)
        rows = min(max(0, (come - line.rows) // line.step + 1), line.outputs)
    return rows
