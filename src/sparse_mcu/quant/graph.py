"""The integer graph: what runs on the device. Operations over small integer tensors; nothing in it is a float but scales.

Tensors are stored (H, W, C), channels last, as the C kernels read them. A real value is ``scale * integer`` (zero point 0).
Every requantisation is ``clamp((sum * multiplier + (1 << shift >> 1)) >> shift, low, high)`` in int32 with an arithmetic shift
(rounds half up); low and high are the limits of the output's type. ``verify`` proves that no int32 overflows for any input.
docs/integer-arithmetic.md states the arithmetic in full. H, W, C: height, width, channels; O: output channels; K: kernel.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

DType = Literal["uint8", "int8", "int16"]
Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
INPUT = "input"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape (H, W, C), integer type, and the real value of one step."""

    shape: tuple[int, int, int]
    dtype: DType
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """Convolution, ReLU by the limits of a uint8 output. A fully connected layer is one whose kernel covers its input."""

    name: str
    inputs: tuple[str]
    weights: Int8Array  # (O, KH, KW, I)
    bias: Int32Array  # (O,), in units of the sum
    multiplier: Int32Array  # (O,), 1..255
    shift: Int32Array  # (O,), 0..31
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right; zeros


@dataclass(frozen=True, slots=True, eq=False)
class DepthwiseConv2d:
    """Convolution of each channel with its own kernel."""

    name: str
    inputs: tuple[str]
    weights: Int8Array  # (KH, KW, C)
    bias: Int32Array  # (C,)
    multiplier: Int32Array  # (C,)
    shift: Int32Array  # (C,)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class MaxPool2d:
    """Largest value of each window; stride is the window, what does not fill a window is dropped. Scale is kept."""

    name: str
    inputs: tuple[str]
    window: tuple[int, int]


@dataclass(frozen=True, slots=True)
class AveragePool2d:
    """Rounded mean of each window, as sum * multiplier >> shift; stride is the window. Scale is kept."""

    name: str
    inputs: tuple[str]
    window: tuple[int, int]
    multiplier: int
    shift: int


@dataclass(frozen=True, slots=True)
class Add:
    """Sum over the inputs i of input_i * multiplier_i, requantised by one shift."""

    name: str
    inputs: tuple[str, ...]
    multiplier: tuple[int, ...]
    shift: int


Op = Conv2d | DepthwiseConv2d | MaxPool2d | AveragePool2d | Add


@dataclass(frozen=True, slots=True)
class IntegerGraph:
    """Operations in execution order. An operation's name is also the name of the tensor that it writes.

    ``tensors`` holds the type of INPUT and of every operation's output; the last operation's output is the logits (int16).
    """

    ops: tuple[Op, ...]
    tensors: dict[str, TensorType] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Name of the logits."""
        return self.ops[-1].name
