"""In which order the kernels read and write, and so how far an output may overlap an input that nobody reads again.

Every kernel computes its output elements in the order in which they lie (position by position, channels last), and reads what it
needs for an element before it writes it. ``first_reads`` is the lowest byte of the input that is read for each element. If the
output begins ``lead`` bytes or more before the input, no byte is written that is still to be read:

    lead = max over elements s of (end of what is written up to s - lowest byte read after s)

A pool has a lead of 0 or less: it runs in place. A 3x3 convolution needs a lead of about two rows instead of a whole map.
"""

import math
from typing import assert_never

import numpy as np
import numpy.typing as npt

from sparse_mcu.quant.graph import Add, AveragePool2d, Conv2d, Convolution, DepthwiseConv2d, MaxPool2d, Op, TensorType

Int64Array = npt.NDArray[np.int64]
Pool = MaxPool2d | AveragePool2d
NEVER = 1 << 40  # beyond every tensor: the lowest byte read where none is
_ITEM_BYTES = {"uint8": 1, "int16": 2}


def tensor_bytes(tensor: TensorType) -> int:
    """Return what ``tensor`` takes in RAM."""
    return math.prod(tensor.shape) * item_bytes(tensor)


def item_bytes(tensor: TensorType) -> int:
    """Return what one element of ``tensor`` takes."""
    return _ITEM_BYTES[tensor.dtype]


def gathers(op: Convolution, source: TensorType) -> bool:
    """Whether the windows of ``op`` are copied to scratch because they do not lie in one piece in the input."""
    (height, width), (_, in_width, _) = op.kernel, source.shape
    return isinstance(op, DepthwiseConv2d) or any(op.padding) or (height > 1 and width < in_width)


def scratch_bytes(op: Op, source: TensorType) -> int:
    """Return the bytes of scratch that ``op`` needs: one window, of one channel if depthwise."""
    if not isinstance(op, Conv2d | DepthwiseConv2d) or not gathers(op, source):
        return 0
    return math.prod(op.kernel) * (1 if isinstance(op, DepthwiseConv2d) else source.shape[2])


def lead(op: Op, source: TensorType, output: TensorType) -> int:
    """Return how many bytes before its input the output must begin to overlap it; negative where it may begin after it."""
    reads = first_reads(op, source, output)
    written = np.arange(1, len(reads)) * item_bytes(output)  # by the time that only elements 1, 2, ... are left
    still_to_read = np.minimum.accumulate(reads[:0:-1])[::-1]
    return int(np.max(written - still_to_read, initial=-tensor_bytes(source)))


def first_reads(op: Op, source: TensorType, output: TensorType) -> Int64Array:
    """Return, for each output element in order, the lowest byte of ``source`` that is read for it (NEVER if none is)."""
    height, width, channels = output.shape
    in_channels, row_bytes = source.shape[2], source.shape[1] * source.shape[2]
    if isinstance(op, Add):
        return np.arange(height * width * channels) * item_bytes(source)
    corners = _corners(op, height, row_bytes, axis=0)[:, None] + _corners(op, width, in_channels, axis=1)
    every_channel = corners.reshape(-1, 1) + np.zeros(channels, np.int64)
    match op:
        case MaxPool2d() | AveragePool2d() | DepthwiseConv2d():
            return (every_channel + np.arange(channels)).reshape(-1)
        case Conv2d():
            if gathers(op, source):  # once, before the first channel
                every_channel[:, 1:] = NEVER
            return every_channel.reshape(-1)
        case _:
            assert_never(op)


def _corners(op: Convolution | Pool, extent: int, pitch: int, axis: int) -> Int64Array:
    """Where the windows begin along an axis, clipped to the input, in bytes; ``pitch`` bytes lie between neighbours."""
    if isinstance(op, MaxPool2d | AveragePool2d):
        step, padding = op.window[axis], 0
    else:
        step, padding = op.stride[axis], op.padding[axis]
    return np.maximum(np.arange(extent, dtype=np.int64) * step - padding, 0) * pitch
