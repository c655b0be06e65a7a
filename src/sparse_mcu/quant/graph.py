"""The integer graph: what runs on the device. Operations over small integer tensors; nothing in it is a float but scales.

Tensors are stored (H, W, C), channels last, as the C kernels read them. A real value is ``scale * integer`` (zero point 0).
Every requantisation is ``clamp((sum * multiplier + (1 << shift >> 1)) >> shift, low, high)`` in int32 with an arithmetic shift
(rounds half up); low and high are the limits of the output's type. ``verify.verify`` proves that no int32 overflows for any input
and states which types each operation reads and writes. docs/integer-arithmetic.md states the arithmetic in full.
H, W, C: height, width, channels; O: output channels; I: input channels; KH, KW: kernel height and width.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

DType = Literal["uint8", "int16"]
Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
INPUT = "input"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape (H, W, C), integer type, and the real value of one step."""

    shape: tuple[int, int, int]
    dtype: DType
    scale: float

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the type."""
        return (0, 255) if self.dtype == "uint8" else (-32768, 32767)


@dataclass(frozen=True, slots=True, eq=False)
class Conv2d:
    """Convolution, ReLU by the limits of a uint8 output. A fully connected layer is one whose kernel covers its input."""

    name: str
    inputs: tuple[str]
    weights: Int8Array  # (O, KH, KW, I), -127..127
    bias: Int32Array  # (O,), in units of the sum
    multiplier: Int32Array  # (O,), 1..255
    shift: Int32Array  # (O,), 0..31
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right; zeros

    @property
    def kernel(self) -> tuple[int, int]:
        """(KH, KW)."""
        return self.weights.shape[1], self.weights.shape[2]


@dataclass(frozen=True, slots=True, eq=False)
class DepthwiseConv2d:
    """Convolution of each channel with its own kernel."""

    name: str
    inputs: tuple[str]
    weights: Int8Array  # (KH, KW, C), -127..127
    bias: Int32Array  # (C,)
    multiplier: Int32Array  # (C,), 1..255
    shift: Int32Array  # (C,), 0..31
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def kernel(self) -> tuple[int, int]:
        """(KH, KW)."""
        return self.weights.shape[0], self.weights.shape[1]


@dataclass(frozen=True, slots=True)
class MaxPool2d:
    """Largest value of each window; stride is the window, what does not fill a window is dropped. Scale is kept."""

    name: str
    inputs: tuple[str]
    window: tuple[int, int]


@dataclass(frozen=True, slots=True)
class AveragePool2d:
    """Rounded mean of each window in steps of the output's scale, as sum * multiplier >> shift; stride is the window."""

    name: str
    inputs: tuple[str]
    window: tuple[int, int]
    multiplier: int  # 1..32767
    shift: int  # 0..31


@dataclass(frozen=True, slots=True)
class Add:
    """Sum over the inputs i of input_i * multiplier_i, requantised by one shift."""

    name: str
    inputs: tuple[str, ...]  # two or more
    multiplier: tuple[int, ...]  # 0..32767
    shift: int  # 0..31


Convolution = Conv2d | DepthwiseConv2d
Op = Conv2d | DepthwiseConv2d | MaxPool2d | AveragePool2d | Add


@dataclass(frozen=True, slots=True)
class IntegerGraph:
    """Operations in execution order. An operation's name is also the name of the tensor that it writes.

    ``tensors`` holds the type of INPUT and of every operation's output; the last operation's output is the logits (int16).
    """

    ops: tuple[Op, ...]
    tensors: dict[str, TensorType]

    @property
    def output(self) -> str:
        """Name of the logits."""
        return self.ops[-1].name

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.tensors[self.output].shape[2]


def arrays(graph: IntegerGraph) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of ``graph`` by "operation name/field"."""
    return {
        f"{op.name}/{f.name}": value
        for op in graph.ops
        for f in dataclasses.fields(op)
        if isinstance(value := getattr(op, f.name), np.ndarray)
    }


def describe(graph: IntegerGraph) -> dict[str, Any]:
    """Return what ``graph`` holds besides its arrays, as JSON values."""
    return {
        "ops": [_describe_op(op) for op in graph.ops],
        "tensors": {name: dataclasses.asdict(tensor) for name, tensor in graph.tensors.items()},
    }


def _describe_op(op: Op) -> dict[str, Any]:
    values = {f.name: getattr(op, f.name) for f in dataclasses.fields(op)}
    return {"op": type(op).__name__} | {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}


def digest(graph: IntegerGraph) -> str:
    """Return a SHA-256 (64 hex digits) of everything in ``graph``: equal graphs, and only they, have equal digests."""
    return content_digest(describe(graph), arrays(graph))


def content_digest(description: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the digest of the graph that ``describe`` and ``arrays`` gave these parts of."""
    sha = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, array in sorted(tensors.items()):
        sha.update(f"\0{name} {array.dtype.name} {array.shape}\0".encode())
        sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()
