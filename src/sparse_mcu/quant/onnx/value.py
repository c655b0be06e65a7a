"""What an ONNX tensor holds, in terms of what layers write: which element of which map, times a gain, plus an offset.

Reshapes, transpositions, concatenations, padding, batch norm and arithmetic with constants only rearrange or rescale elements:
they change a Value and add no layer. The next layer that reads it folds gains and offsets into its weights.
Shapes are ONNX's, the batch of one included; C, H, W: channels, height, width of a map.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import NetworkError
from sparse_mcu.space.layers import Shape

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
CONSTANT = -1  # the element of a place that no map fills: it is its offset


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An ONNX tensor: at each place ``gain * x + offset``; ``elements`` says which x of the maps of ``tensors``, end to end."""

    tensors: tuple[str, ...]
    elements: Int64Array  # places in the maps, each raveled as (C, H, W)
    gain: Float64Array  # of the shape of elements
    offset: Float64Array  # of the shape of elements
    exclusive: bool = True  # whether nothing else reads the tensors

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the ONNX tensor."""
        return self.elements.shape

    def rearranged(self, rearrange: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> "Value":
        """Return the value with ``rearrange`` applied to elements, gains and offsets alike."""
        return replace(self, elements=rearrange(self.elements), gain=rearrange(self.gain), offset=rearrange(self.offset))

    def scaled(self, gain: npt.ArrayLike, offset: npt.ArrayLike) -> "Value":
        """Return ``self * gain + offset``, broadcast as ONNX does; raises ValueError where that would change the shape."""
        gain, offset = np.asarray(gain, np.float64), np.asarray(offset, np.float64)
        if np.broadcast_shapes(self.shape, gain.shape, offset.shape) != self.shape:
            raise ValueError
        return replace(self, gain=self.gain * gain, offset=self.offset * gain + offset)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A whole map within a value, at ``channels`` of it."""

    tensor: str
    channels: slice
    gain: Float64Array  # (C,)
    offset: Float64Array  # (C,)

    @property
    def plain(self) -> bool:
        """Whether it is the map as it is."""
        return bool((self.gain == 1).all() and (self.offset == 0).all())


def whole(tensor: str, shape: Shape, rank: int = 4) -> Value:
    """Return what a layer writes, as (1, C, H, W), or as (1, C, W) of a row or (1, C) of a point where ``rank`` is 3 or 2."""
    channels, height, width = shape
    extents = {4: (channels, height, width), 3: (channels, width), 2: (channels,)}[rank]
    elements = np.arange(math.prod(shape)).reshape(1, *extents)
    return Value((tensor,), elements, np.ones(elements.shape), np.zeros(elements.shape))


def concatenated(values: list[Value], axis: int, shapes: Mapping[str, Shape]) -> Value:
    """Return ``values`` one behind the other along ``axis``."""
    starts = np.cumsum([0, *(sum(math.prod(shapes[name]) for name in value.tensors) for value in values)])
    elements = [np.where(v.elements == CONSTANT, CONSTANT, v.elements + start) for v, start in zip(values, starts, strict=False)]
    return Value(
        tuple(name for value in values for name in value.tensors),
        np.concatenate(elements, axis),
        np.concatenate([value.gain for value in values], axis),
        np.concatenate([value.offset for value in values], axis),
        all(value.exclusive for value in values),
    )


def padded(value: Value, widths: list[tuple[int, int]]) -> Value:
    """Return ``value`` with zeros around it."""
    return replace(
        value,
        elements=np.pad(value.elements, widths, constant_values=CONSTANT),
        gain=np.pad(value.gain, widths),
        offset=np.pad(value.offset, widths),
    )


def maps(value: Value) -> Value:
    """Return ``value`` as (1, C, H, W): signals have a height of 1, and vectors are maps of 1x1."""
    batch, *extents = value.shape
    shape = {1: (*extents, 1, 1), 2: (extents[0], 1, extents[-1]), 3: tuple(extents)}.get(len(extents))
    if batch != 1 or shape is None:
        raise NetworkError(
            f"a feature map must have shape (1, C, H, W), but has {value.shape}; export the network with a batch of 1"
        )
    return value.rearranged(lambda array: array.reshape(1, *shape))


def border(value: Value) -> tuple[Value, tuple[int, int, int, int]]:
    """Return ``value`` (1, C, H, W) without the zeros around it, and their number (top, left, bottom, right)."""
    filled = value.elements[0] != CONSTANT
    rows, columns = np.flatnonzero(filled.any(axis=(0, 2))), np.flatnonzero(filled.any(axis=(0, 1)))
    if not len(rows) or value.offset[0][~filled].any():
        raise NetworkError("padding must be zeros around a map, but other constants are")
    _, _, height, width = value.shape
    (top, left), (bottom, right) = (rows[0], columns[0]), (height - 1 - rows[-1], width - 1 - columns[-1])
    inner = value.rearranged(lambda array: array[:, :, top : height - bottom, left : width - right])
    return inner, (int(top), int(left), int(bottom), int(right))


def parts(value: Value, shapes: Mapping[str, Shape]) -> Iterator[Part]:
    """Yield the maps that ``value`` (1, C, H, W) consists of, in the order of its channels."""
    first, total = 0, value.shape[1]
    starts = _starts(value, shapes)
    while first < total:
        start = int(value.elements[0, first, 0, 0])
        if start not in starts:
            raise NetworkError("it must read whole maps, but reads a part of one")
        tensor = starts[start]
        shape = shapes[tensor]
        channels = slice(first, first + shape[0])
        expected = start + np.arange(math.prod(shape)).reshape(shape)
        if not np.array_equal(value.elements[0, channels], expected):
            raise NetworkError("it must read whole maps, but reads a part of one, or one rearranged")
        yield Part(tensor, channels, _uniform(value.gain[0, channels]), _uniform(value.offset[0, channels]))
        first += shape[0]


def channelwise(value: Value, shapes: Mapping[str, Shape]) -> Iterator[tuple[str, Float64Array, Float64Array]]:
    """Yield each tensor of ``value`` with a gain and an offset (C,) per channel, in whatever order its elements are."""
    for start, tensor in _starts(value, shapes).items():
        channels, height, width = shapes[tensor]
        mine = (value.elements >= start) & (value.elements < start + channels * height * width)
        channel = (value.elements[mine] - start) // (height * width)
        gain, offset = np.ones(channels), np.zeros(channels)
        gain[channel], offset[channel] = value.gain[mine], value.offset[mine]
        if (gain[channel] != value.gain[mine]).any() or (offset[channel] != value.offset[mine]).any():
            raise NetworkError("constants must be the same all over a channel, but differ from place to place")
        yield tensor, gain, offset


def replaced(value: Value, tensors: tuple[str, ...]) -> Value:
    """Return ``value`` with other tensors in place of its own, which have taken over its gains and offsets."""
    constant = value.elements == CONSTANT
    return replace(
        value,
        tensors=tensors,
        gain=np.where(constant, value.gain, 1.0),
        offset=np.where(constant, value.offset, 0.0),
    )


def _starts(value: Value, shapes: Mapping[str, Shape]) -> dict[int, str]:
    """Return which tensor begins at which element."""
    sizes = [math.prod(shapes[name]) for name in value.tensors]
    return dict(zip(np.cumsum([0, *sizes]).tolist(), value.tensors, strict=False))


def _uniform(values: Float64Array) -> Float64Array:  # (C, H, W) -> (C,)
    by_channel = values[:, 0, 0]
    if (values != by_channel[:, None, None]).any():
        raise NetworkError("constants must be the same all over a channel, but differ from place to place")
    return by_channel
