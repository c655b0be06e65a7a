"""In which order the kernels read and write, and so how far an output may overlap an input that nobody reads again.

A kernel goes through its output in steps, front to back: an element of a pool or an addition; of a convolution all channels of a
position, or of two positions where windows are summed up in pairs. In a step it reads all that it needs before it writes. If the
output begins ``lead`` bytes or more before the input, no byte is written that is still to be read:

    lead = max over steps s of (end of what is written up to s - lowest byte read after s)

A pool has a lead of 0 or less: it runs in place. A 3x3 convolution needs a lead of about two rows instead of a whole map.
Straight-line code of an AVR (unroll_avr.py) writes the first channels of a position before it reads for the others; what it has
written by that time must not reach what it reads in that step either.
"""

import math

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.stages import Stage
from sparse_mcu.quant.graph import Add, Conv2d, DepthwiseConv2d, TensorType

Int64Array = npt.NDArray[np.int64]
SUM_BYTES = 4  # of a sum in scratch; an AVR may use three of them
_ITEM_BYTES = {"uint8": 1, "int16": 2}


def tensor_bytes(tensor: TensorType) -> int:
    """Return what ``tensor`` takes in RAM."""
    return math.prod(tensor.shape) * item_bytes(tensor)


def item_bytes(tensor: TensorType) -> int:
    """Return what one element of ``tensor`` takes."""
    return _ITEM_BYTES[tensor.dtype]


def twice(stage: Stage, output: TensorType, in_pairs: bool = True) -> bool:
    """Whether ``stage`` computes two positions at once: if windows are summed up in pairs, and each is one position."""
    return in_pairs and isinstance(stage.op, Conv2d) and math.prod(output.shape[:2]) > 1 and math.prod(stage.windows) == 1


def scratch_bytes(stage: Stage, output: TensorType, in_pairs: bool = True) -> int:
    """Return the bytes of scratch that ``stage`` needs: a sum of every channel, an even number, of one output or of two."""
    if not isinstance(stage.op, Conv2d | DepthwiseConv2d):
        return 0
    channels = output.shape[2]
    return SUM_BYTES * (channels + channels % 2) * (2 if twice(stage, output, in_pairs) else 1)


def lead(
    stage: Stage,
    source: TensorType,
    output: TensorType,
    in_pairs: bool = True,
    early: int = 0,  # bytes of a step's output that are written before its last input is read
) -> int:
    """Return how many bytes before its input the output must begin to overlap it; negative where it may begin after it."""
    reads, written = accesses(stage, source, output, in_pairs)
    still_to_read = np.minimum.accumulate(reads[::-1])[::-1]
    found = np.max(written[:-1] - still_to_read[1:], initial=-tensor_bytes(source))
    if early > 0:
        before = np.append(0, written[:-1]) + early
        found = max(found, np.max(before - still_to_read))
    return int(found)


def accesses(stage: Stage, source: TensorType, output: TensorType, in_pairs: bool = True) -> tuple[Int64Array, Int64Array]:
    """Return, step by step, the lowest byte of ``source`` that is read, and where what has been written of the output ends."""
    height, width, channels = output.shape
    elements = height * width * channels
    if isinstance(stage.op, Add):
        return np.arange(elements) * item_bytes(source), np.arange(1, elements + 1) * item_bytes(output)
    in_channels, row_bytes = source.shape[2], source.shape[1] * source.shape[2]
    corners = (_corners(stage, height, row_bytes, axis=0)[:, None] + _corners(stage, width, in_channels, axis=1)).reshape(-1)
    if isinstance(stage.op, Conv2d | DepthwiseConv2d):
        count = 2 if twice(stage, output, in_pairs) else 1
        lowest = np.minimum.reduceat(corners, np.arange(0, len(corners), count))
        positions = np.minimum(np.arange(1, len(lowest) + 1) * count, len(corners))
        return lowest, positions * channels * item_bytes(output)
    return (corners[:, None] + np.arange(channels)).reshape(-1), np.arange(1, elements + 1) * item_bytes(output)


def _corners(stage: Stage, extent: int, pitch: int, axis: int) -> Int64Array:
    """Where the windows begin along an axis, clipped to the input, in bytes; ``pitch`` bytes lie between neighbours."""
    op = stage.op
    if isinstance(op, Conv2d | DepthwiseConv2d):
        step, padding = op.stride[axis] * stage.windows[axis], op.padding[axis]
    else:
        assert not isinstance(op, Add), "an addition has no windows"
        step, padding = op.window[axis], 0
    return np.maximum(np.arange(extent, dtype=np.int64) * step - padding, 0) * pitch
