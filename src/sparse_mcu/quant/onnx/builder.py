"""Appends layers that read Values; puts gains, offsets and ReLUs into layers already there where nothing else sees them.

gain, offset: (C,), a channel's; O: output channels; K: elements of a vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparse_mcu.errors import NetworkError
from sparse_mcu.nn.folded import FoldedLayer, FoldedNetwork
from sparse_mcu.quant.onnx.value import (
    CONSTANT,
    Float64Array,
    Part,
    Value,
    border,
    channelwise,
    concatenated,
    maps,
    parts,
    replaced,
    whole,
)
from sparse_mcu.space.architecture import Size
from sparse_mcu.space.layers import INPUT, Layer, Operation, Shape

Padding = tuple[int, int, int, int]  # top, left, bottom, right
UNPADDED: Padding = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A layer whose weights (``layer.weight_shape``) and bias may still change."""

    layer: Layer
    weight: Float64Array | None = None
    bias: Float64Array | None = None
    ceiling: float = math.inf
    scale: float | None = None
    sole_reader: bool = False  # whether nothing else reads its inputs


class Builder:
    """A network under construction; ``shapes`` are those of its tensors, (C, H, W)."""

    def __init__(self, input_shape: Shape) -> None:
        self.drafts: dict[str, Draft] = {}
        self.shapes: dict[str, Shape] = {INPUT: input_shape}

    def network(self, value: Value) -> FoldedNetwork:
        """Return the layers that the logits, ``value``, depend on; the last one writes them."""
        classes = value.elements.size
        if classes < 2 or max(value.shape) != classes:
            raise NetworkError(f"a classifier must write at least two logits and nothing else, but writes shape {value.shape}")
        wanted = {self._logits(value)}
        kept = []
        for name, draft in reversed(self.drafts.items()):
            if name in wanted:
                wanted.update(draft.layer.inputs)
                kept.append(_folded(draft))
        return tuple(reversed(kept))

    def convolution(
        self,
        name: str,
        value: Value,
        weight: Float64Array,  # (O, C, KH, KW), or depthwise (C, 1, KH, KW)
        bias: Float64Array,  # (O,)
        stride: Size = (1, 1),
        padding: Padding = UNPADDED,
        *,
        depthwise: bool = False,
    ) -> Value:
        """Append a convolution. One that reads several maps is the sum of one of each; a depthwise one stays with its map."""
        inner, zeros = border(maps(value))
        padding = (padding[0] + zeros[0], padding[1] + zeros[1], padding[2] + zeros[2], padding[3] + zeros[3])
        found = list(parts(inner, self.shapes))
        outputs: list[str] = []
        for index, part in enumerate(found):
            part_name = name if len(found) == 1 else f"{name}.part{index}"
            if depthwise:
                own, own_bias = weight[part.channels], bias[part.channels]
            else:
                own, own_bias = weight[:, part.channels], bias if index == 0 else np.zeros(len(bias))
            outputs.append(self._convolution(part_name, part, own, own_bias, stride, padding, depthwise, value.exclusive))
        rank = len(value.shape)
        if depthwise:
            return concatenated([whole(output, self.shapes[output], rank) for output in outputs], 1, self.shapes)
        output = outputs[0] if len(outputs) == 1 else self._append(name, "add", tuple(outputs), self.shapes[outputs[0]], True)
        return whole(output, self.shapes[output], rank)

    def linear(
        self,
        name: str,
        value: Value,
        weight: Float64Array,  # (O, K)
        bias: Float64Array,  # (O,)
    ) -> Value:
        """Append a fully connected layer that reads the elements of ``value`` in their order; one for each map, and their sum."""
        elements, gain, offset = value.elements.reshape(-1), value.gain.reshape(-1), value.offset.reshape(-1)
        bias = bias + weight @ offset
        start = 0
        outputs: list[str] = []
        for tensor in value.tensors:
            size = math.prod(self.shapes[tensor])
            mine = (elements >= start) & (elements < start + size) & (elements != CONSTANT)
            own = np.zeros((size, len(weight)))
            np.add.at(own, elements[mine] - start, (weight[:, mine] * gain[mine]).T)
            start += size
            part_name = name if len(value.tensors) == 1 else f"{name}.part{len(outputs)}"
            own_bias = np.zeros(len(bias)) if outputs else bias
            kernel = self.shapes[tensor][1:]
            shape = (len(weight), 1, 1)
            outputs.append(
                self._append(part_name, "linear", (tensor,), shape, value.exclusive, kernel, weight=own.T, bias=own_bias)
            )
        output = outputs[0] if len(outputs) == 1 else self._append(name, "add", tuple(outputs), (len(weight), 1, 1), True)
        return whole(output, self.shapes[output], 2)

    def pool(self, name: str, value: Value, kind: Operation, window: Size) -> Value:
        """Append a pool whose stride is its window to each map; gains and offsets go through it."""
        x = maps(value)
        outputs = []
        for part in parts(x, self.shapes):
            if kind == "max_pool" and (part.gain <= 0).any():  # the largest becomes the smallest
                part = self._plain(f"{name}.scaled", part)
            channels, height, width = self.shapes[part.tensor]
            shape = (channels, height // window[0], width // window[1])
            output = self._append(name, kind, (part.tensor,), shape, value.exclusive, window, window)
            by_channel = (1, channels, 1, 1)
            pooled = whole(output, shape).scaled(part.gain.reshape(by_channel), part.offset.reshape(by_channel))
            outputs.append(pooled)
        result = concatenated(outputs, 1, self.shapes)
        return result if len(value.shape) == 4 else result.rearranged(lambda array: array[:, :, 0])

    def add(self, name: str, values: Sequence[Value]) -> Value:
        """Append a sum of values of one structure."""
        settled = [self.settle(name, value) for value in _merged(values)]
        first = settled[0]
        if len(settled) == 1:
            return first
        for value in settled:
            alike = [self.shapes[t] for t in value.tensors] == [self.shapes[t] for t in first.tensors]
            if not alike or not np.array_equal(value.elements, first.elements):
                raise NetworkError(f"a sum must join maps of equal shape, but joins {first.shape} and {value.shape}")
        exclusive = all(value.exclusive for value in settled)
        tensors = []
        for inputs in zip(*(value.tensors for value in settled), strict=True):
            if len(set(inputs)) < len(inputs):
                raise NetworkError(f"a sum must join different maps, but joins {', '.join(inputs)}")
            tensors.append(self._append(name, "add", inputs, self.shapes[inputs[0]], exclusive))
        return replace(first, tensors=tuple(tensors), exclusive=True)

    def settle(self, name: str, value: Value) -> Value:
        """Return ``value`` without gains and offsets: in the weights of who writes it, or else in a layer of its own."""
        tensors = []
        for tensor, gain, offset in channelwise(value, self.shapes):
            part = Part(tensor, slice(None), gain, offset)
            targets = self._targets(tensor, gain) if value.exclusive else ()
            if targets and not part.plain:
                self._fold(targets, gain, offset)
            elif not part.plain:
                tensor = self._depthwise(f"{name}.scaled", part)
            tensors.append(tensor)
        return replaced(value, tuple(tensors))

    def activate(self, name: str, value: Value, ceiling: float = math.inf) -> Value:
        """Return ``value`` after a ReLU that stops rising at ``ceiling``."""
        tensors = []
        for tensor, gain, offset in channelwise(value, self.shapes):
            part = Part(tensor, slice(None), gain, offset)
            place = self._relu_place(tensor) if value.exclusive else None
            targets = self._targets(tensor, gain)
            if part.plain and ceiling == math.inf and self.unsigned(tensor):
                tensors.append(tensor)
            elif place is not None and (part.plain or targets):
                self._fold(targets, gain, offset)
                draft = self.drafts[place]
                relu, ceiling_here = replace(draft.layer, relu=True), min(draft.ceiling, ceiling)
                self.drafts[place] = replace(draft, layer=relu, ceiling=ceiling_here)
                tensors.append(tensor)
            else:
                tensors.append(self._depthwise(name, part, relu=True, ceiling=ceiling))
        result = replaced(value, tuple(tensors))
        return replace(result, offset=np.clip(result.offset, 0, ceiling))  # of the places that no map fills

    def quantised(self, name: str, value: Value, scale: float) -> Value:
        """Return ``value`` in 256 steps of ``scale`` from zero up: a ReLU, where what writes it is not one already."""
        found = list(channelwise(value, self.shapes))
        places = [self._relu_place(tensor) for tensor, _, _ in found] if value.exclusive else [None]
        if None in places and all(self.unsigned(t) and (g >= 0).all() and (o >= 0).all() for t, g, o in found):
            return value  # only rounding: that of an input, a pool or what others read as it is
        result = self.activate(name, value, 255 * scale)
        for tensor in result.tensors:
            place = self._relu_place(tensor)
            if place is not None:
                self.drafts[place] = replace(self.drafts[place], scale=scale)
        return result

    def unsigned(self, tensor: str) -> bool:
        """Whether ``tensor`` is never negative."""
        if tensor == INPUT or self.drafts[tensor].layer.relu:
            return True
        draft = self.drafts[tensor]
        return draft.weight is None and all(self.unsigned(name) for name in draft.layer.inputs)

    def _convolution(
        self,
        name: str,
        part: Part,
        weight: Float64Array,  # (O, C, KH, KW), or depthwise (C, 1, KH, KW)
        bias: Float64Array,
        stride: Size,
        padding: Padding,
        depthwise: bool,
        exclusive: bool,
    ) -> str:
        if any(padding) and part.offset.any():  # the zeros around a map are zeros of what it stands for
            part, exclusive = self._plain(f"{name}.scaled", part), True
        by_channel = (-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)
        bias = bias + (weight * part.offset.reshape(by_channel)).sum(axis=(1, 2, 3))
        kernel = (weight.shape[2], weight.shape[3])
        _, height, width = self.shapes[part.tensor]
        shape = (len(weight), *_windows((height, width), kernel, stride, padding))
        op: Operation = "depthwise" if depthwise else "conv"
        weight = weight * part.gain.reshape(by_channel)
        return self._append(name, op, (part.tensor,), shape, exclusive, kernel, stride, padding, weight=weight, bias=bias)

    def _plain(self, name: str, part: Part) -> Part:
        """Append a layer that applies the gains and offsets of ``part``; return what it writes."""
        return replace(part, tensor=self._depthwise(name, part), gain=np.ones(len(part.gain)), offset=np.zeros(len(part.gain)))

    def _depthwise(self, name: str, part: Part, relu: bool = False, ceiling: float = math.inf) -> str:
        """Append a layer that applies gain, offset and ReLU, and nothing else."""
        weight = part.gain.reshape(-1, 1, 1, 1)
        shape = self.shapes[part.tensor]
        written = self._append(name, "depthwise", (part.tensor,), shape, False, weight=weight, bias=part.offset)
        draft = self.drafts[written]
        self.drafts[written] = replace(draft, layer=replace(draft.layer, relu=relu), ceiling=ceiling)
        return written

    def _append(
        self,
        name: str,
        op: Operation,
        inputs: tuple[str, ...],
        shape: Shape,
        sole_reader: bool,
        kernel: Size = (1, 1),
        stride: Size = (1, 1),
        padding: Padding = UNPADDED,
        *,
        weight: Float64Array | None = None,
        bias: Float64Array | None = None,
    ) -> str:
        """Append a layer under ``name``, or one like it if that is taken; return the name."""
        stem, number = name or op, 2
        name = stem
        while name in self.shapes:
            name, number = f"{stem}.{number}", number + 1
        layer = Layer(name, op, inputs, self.shapes[inputs[0]], shape, kernel, stride, padding)
        self.drafts[name] = Draft(layer, weight, bias, sole_reader=sole_reader)
        self.shapes[name] = shape
        return name

    def _targets(self, tensor: str, gain: Float64Array) -> tuple[str, ...]:
        """Layers whose weights can take a gain of ``tensor``, the first one its offset too; none where that is not possible."""
        draft = self.drafts.get(tensor)
        if draft is None or draft.layer.relu:
            return ()
        if draft.weight is not None:
            return (tensor,)
        if not draft.sole_reader or (draft.layer.op == "max_pool" and (gain <= 0).any()):
            return ()
        found = [self._targets(name, gain) for name in draft.layer.inputs]
        return tuple(name for names in found for name in names) if all(found) else ()

    def _fold(self, targets: Sequence[str], gain: Float64Array, offset: Float64Array) -> None:
        for index, name in enumerate(targets):
            draft = self.drafts[name]
            assert draft.weight is not None and draft.bias is not None
            weight = draft.weight * gain.reshape(-1, *[1] * (draft.weight.ndim - 1))
            bias = draft.bias * gain + (offset if index == 0 else 0)
            self.drafts[name] = replace(draft, weight=weight, bias=bias)

    def _relu_place(self, tensor: str) -> str | None:
        """The layer whose ReLU is as good as one behind ``tensor``: its writer, or what a max pool alone reads."""
        draft = self.drafts.get(tensor)
        if draft is None or draft.layer.op == "average_pool":
            return None
        if draft.layer.op == "max_pool":
            return self._relu_place(draft.layer.inputs[0]) if draft.sole_reader else None
        return tensor

    def _logits(self, value: Value) -> str:
        """Return the layer that writes ``value`` in order, as it is, in more than 8 bits; append it if there is none."""
        in_order = len(value.tensors) == 1 and np.array_equal(value.elements.reshape(-1), np.arange(value.elements.size))
        if not in_order or self.shapes[value.tensors[0]] != (value.elements.size, 1, 1):
            return self.linear("logits", value, np.eye(value.elements.size), np.zeros(value.elements.size)).tensors[0]
        (tensor,) = self.settle("logits", value).tensors
        draft = self.drafts.get(tensor)
        if draft is None or draft.layer.relu or (draft.weight is None and (draft.layer.op != "add" or self.unsigned(tensor))):
            channels = self.shapes[tensor][0]
            return self._depthwise("logits", Part(tensor, slice(None), np.ones(channels), np.zeros(channels)))
        return tensor


def _merged(values: Sequence[Value]) -> list[Value]:
    """Return ``values`` with those that are the same but for gains and offsets summed: x and x are 2 x."""
    merged: list[Value] = []
    for value in values:
        for index, other in enumerate(merged):
            if other.tensors == value.tensors and np.array_equal(other.elements, value.elements):
                merged[index] = replace(other, gain=other.gain + value.gain, offset=other.offset + value.offset)
                break
        else:
            merged.append(value)
    return merged


def _windows(size: Size, kernel: Size, stride: Size, padding: Padding) -> Size:
    """Return how many windows there are along each axis."""
    extents = (size[0] + padding[0] + padding[2], size[1] + padding[1] + padding[3])
    if any(p >= k for p, k in zip(padding, kernel * 2, strict=True)):
        raise NetworkError(f"padding must be smaller than the kernel, but is {padding} with kernel {kernel}")
    if any(k > extent for k, extent in zip(kernel, extents, strict=True)):
        raise NetworkError(f"a kernel must fit its padded input, but is {kernel} on {extents}")
    return (extents[0] - kernel[0]) // stride[0] + 1, (extents[1] - kernel[1]) // stride[1] + 1


def _folded(draft: Draft) -> FoldedLayer:
    return FoldedLayer(draft.layer, _float32(draft.weight), _float32(draft.bias), draft.ceiling, draft.scale)


def _float32(array: Float64Array | None) -> npt.NDArray[np.float32] | None:
    return None if array is None else array.astype(np.float32)
