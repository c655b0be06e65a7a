"""Random small integer graphs that keep every rule, for differential tests of whatever runs graphs: every operation and edge.

They have odd sizes, 1-D and 1x1 maps, strides, uneven paddings, residual additions of uint8 and int16, branches to the
classifier, weights from empty to full and of 8 bits, 4 or 2, multipliers and shifts up to their limits; yet most tensors vary
within their range.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sparse_mcu.quant.fixedpoint import (
    INT32_MAX,
    MAX_CHANNEL_MULTIPLIER,
    MAX_MULTIPLIER,
    MAX_SHIFT,
    Int64Array,
    add_magnitude,
    average_magnitude,
    sum_bounds,
)
from sparse_mcu.quant.graph import (
    INPUT,
    Add,
    AveragePool2d,
    Conv2d,
    DepthwiseConv2d,
    DType,
    Int8Array,
    Int32Array,
    IntegerGraph,
    MaxPool2d,
    Op,
    TensorType,
)
from sparse_mcu.quant.interpreter import IntegerArray, convolution_sums, run_op
from sparse_mcu.quant.verify import verify

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]  # kernel, stride, padding
AnyConvolution = TypeVar("AnyConvolution", Conv2d, DepthwiseConv2d)
POINTWISE: Geometry = ((1, 1), (1, 1), (0, 0, 0, 0))
FOUR_BITS, TWO_BITS = (-8, 7), (-1, 1)  # the least and the largest weight of such a layer


@dataclass(frozen=True, slots=True)
class GraphSize:
    """Upper bounds of a random graph: layers before the classifier, height and width, channels, logits."""

    layers: int = 6
    extent: int = 12
    channels: int = 9
    classes: int = 10


SMALL = GraphSize()


def random_graph(rng: np.random.Generator, size: GraphSize = SMALL) -> IntegerGraph:
    """Return a random graph that ``verify`` accepts. The same state of ``rng`` gives the same graph."""
    builder = _grown(rng, size)
    # Logits that ignore the input hide what went wrong before them: mostly draw again.
    while _constant(builder.values[builder.last]) and rng.random() < 0.8:
        builder = _grown(rng, size)
    graph = IntegerGraph(tuple(builder.ops), builder.tensors)
    verify(graph)
    return graph


def random_images(
    rng: np.random.Generator,
    graph: IntegerGraph,
    count: int,
) -> npt.NDArray[np.uint8]:  # (count, C, H, W)
    """Return random inputs of ``graph``, in turn noise, mostly 0, mostly 255, all 0 and all 255."""
    height, width, channels = graph.tensors[INPUT].shape
    images = rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    most = rng.random(images.shape) < 0.8
    images[1::5][most[1::5]] = 0
    images[2::5][most[2::5]] = 255
    images[3::5] = 0
    images[4::5] = 255
    return images


def _fits_four_bits(weights: Int8Array) -> bool:
    return bool(weights.min() >= FOUR_BITS[0] and weights.max() <= FOUR_BITS[1])


def _constant(values: IntegerArray) -> bool:
    """Whether all images give the same values (N, H, W, C)."""
    return bool((values == values[:1]).all())


def _grown(rng: np.random.Generator, size: GraphSize) -> "_Builder":
    """Return a builder that holds a whole network."""
    builder = _Builder(rng, size)
    routed = []
    for _ in range(rng.integers(0, size.layers + 1)):
        builder.layer()
        if rng.random() < 0.15:
            routed.append(builder.last)
    builder.head(sorted({*routed, builder.last}))
    return builder


class _Builder:
    """Appends operations and runs each on a few images; each reads the tensor named ``last``, an addition also earlier ones."""

    def __init__(self, rng: np.random.Generator, size: GraphSize) -> None:
        self.rng = rng
        self.size = size
        self.few_bits = FOUR_BITS if rng.random() < 0.5 else TWO_BITS
        self.with_few_bits = float(rng.choice([0.0, 0.4, 1.0]))  # share of the layers
        height = 1 if rng.random() < 0.25 else self._up_to(size.extent)
        shape = (height, self._up_to(size.extent), self._up_to(min(size.channels, 4)))
        self.ops: list[Op] = []
        self.tensors = {INPUT: TensorType(shape, "uint8", 1 / 255)}
        self.values: dict[str, IntegerArray] = {INPUT: rng.integers(0, 256, (4, *shape), dtype=np.uint8)}
        self.last = INPUT

    def layer(self) -> None:
        """Append a random layer: one operation, or the two of a residual connection."""
        kinds = ["conv", "pointwise", "depthwise", "max_pool", "average_pool", "residual"]
        match self.rng.choice(kinds, p=[0.3, 0.1, 0.2, 0.1, 0.1, 0.2]):
            case "conv":
                self._conv(self._geometry(), self._up_to(self.size.channels))
            case "pointwise":
                self._conv(POINTWISE, self._up_to(self.size.channels))
            case "depthwise":
                self._depthwise(self._geometry())
            case "max_pool":
                self._max_pool(self._window())
            case "average_pool":
                self._average_pool(self._window())
            case "residual":
                self._residual()

    def head(self, routed: list[str]) -> None:
        """Append the classifier: a linear layer per routed tensor, their sum if several, perhaps a hidden layer, the logits."""
        classes = int(self.rng.integers(2, self.size.classes + 1))
        hidden = self.rng.random() < 0.3
        units = self._up_to(self.size.channels) if hidden else classes
        single = len(routed) == 1
        branches = []
        for source in routed:
            self.last = source
            if self.rng.random() < 0.3:
                self._average_pool(self._shape[:2])
            self._linear(units, "uint8" if single and hidden else "int16")
            branches.append(self.last)
        if not single:
            self._add(branches, "uint8" if hidden else "int16")
        if hidden:
            self._linear(classes, "int16")

    def _residual(self) -> None:
        """A convolution that keeps the shape, uint8 or int16, added to its input."""
        source = self.last
        kernel = (int(self.rng.choice([1, 3])), int(self.rng.choice([1, 3, 5])))
        same = (kernel[0] // 2, kernel[1] // 2)
        self._conv((kernel, (1, 1), same * 2), self._shape[2], "int16" if self.rng.random() < 0.5 else "uint8")
        self._add([source, self.last], "uint8")

    def _linear(self, units: int, dtype: DType) -> None:
        self._conv((self._shape[:2], (1, 1), (0, 0, 0, 0)), units, dtype)

    def _conv(self, geometry: Geometry, channels: int, dtype: DType = "uint8") -> None:
        kernel, stride, padding = geometry
        weights = self._weights((channels, *kernel, self._shape[2]))
        unset = np.zeros(channels, np.int32)  # chosen once the sums are known
        op = Conv2d(self._name("conv"), (self.last,), weights, self._bias(channels), unset, unset, stride, padding)
        self._append(self._scaled(op, dtype), self._map(kernel, stride, padding, channels), dtype)

    def _depthwise(self, geometry: Geometry) -> None:
        kernel, stride, padding = geometry
        channels = self._shape[2]
        weights = self._weights((*kernel, channels))
        unset = np.zeros(channels, np.int32)
        op = DepthwiseConv2d(self._name("depthwise"), (self.last,), weights, self._bias(channels), unset, unset, stride, padding)
        self._append(self._scaled(op, "uint8"), self._map(kernel, stride, padding, channels), "uint8")

    def _max_pool(self, window: tuple[int, int]) -> None:
        op = MaxPool2d(self._name("max_pool"), (self.last,), window)
        self._append(op, self._map(window, window, (0, 0, 0, 0), self._shape[2]), "uint8", self.tensors[self.last].scale)

    def _average_pool(self, window: tuple[int, int]) -> None:
        count = math.prod(window)
        shift = int(self.rng.integers(0, 23))
        largest = min(MAX_MULTIPLIER, (INT32_MAX - (1 << shift >> 1)) // average_magnitude(window))
        # Mostly a mean; now and then any multiplier at all, which then clips or vanishes.
        multiplier = int(self.rng.integers(1, largest + 1)) if self.rng.random() < 0.1 else -(-(1 << shift) // count)
        op = AveragePool2d(self._name("average_pool"), (self.last,), window, min(multiplier, largest), shift)
        self._append(op, self._map(window, window, (0, 0, 0, 0), self._shape[2]), "uint8", self.tensors[self.last].scale)

    def _add(self, inputs: list[str], dtype: DType) -> None:
        types = [self.tensors[name] for name in inputs]
        limit = int(self.rng.choice([1, 255, MAX_MULTIPLIER]))
        multiplier = tuple(int(m) for m in self.rng.integers(1, limit + 1, len(inputs)))
        if self.rng.random() < 0.05:
            multiplier = (0, *multiplier[1:])
        while add_magnitude(multiplier, types) > INT32_MAX // 2:  # half is at most INT32_MAX // 2 + 1: any shift fits
            multiplier = tuple(m // 2 for m in multiplier)
        products = [self.values[name].astype(np.int64) * m for name, m in zip(inputs, multiplier, strict=True)]
        shift = int(self._live_shift(np.abs(np.sum(products, axis=0)).max(keepdims=True).ravel(), dtype)[0])
        self._append(Add(self._name("add"), tuple(inputs), multiplier, shift), types[0].shape, dtype)

    def _scaled(self, op: AnyConvolution, dtype: DType) -> AnyConvolution:
        """Return ``op`` with multipliers and shifts: mostly such that outputs use their range, now and then at their limits."""
        input_type = self.tensors[self.last]
        sums = convolution_sums(op, self.values[self.last], input_type).astype(np.int64)
        # A ReLU leaves nothing of a channel whose sums are negative, and soon nothing of the network: mostly turn those around.
        sign = np.where((sums.mean(axis=(0, 1, 2)) < 0) & (self.rng.random(len(op.bias)) < 0.8), -1, 1)
        by_channel = sign[:, None, None, None] if isinstance(op, Conv2d) else sign
        limit = FOUR_BITS[1] if _fits_four_bits(op.weights) else 127  # 8, which is -8 turned around, would not fit any more
        weights = np.minimum(op.weights * by_channel, limit).astype(np.int8)
        op = dataclasses.replace(op, weights=weights, bias=(op.bias * sign).astype(np.int32))
        low, high = sum_bounds(op, input_type)
        multiplier = self.rng.integers(1, MAX_CHANNEL_MULTIPLIER + 1, len(sign))
        shift = self._live_shift(np.abs(sums).max(axis=(0, 1, 2)) * multiplier, dtype)
        extreme = self.rng.random(len(sign)) < 0.05
        multiplier[extreme] = self.rng.choice([1, MAX_CHANNEL_MULTIPLIER], extreme.sum())
        shift[extreme] = self.rng.choice([0, 1, MAX_SHIFT - 1, MAX_SHIFT], extreme.sum())
        largest = (INT32_MAX - (np.int64(1) << shift >> 1)) // np.maximum(np.maximum(-low, high), 1)
        return dataclasses.replace(op, multiplier=np.minimum(multiplier, largest).astype(np.int32), shift=shift.astype(np.int32))

    def _live_shift(self, scaled: Int64Array, dtype: DType) -> Int64Array:
        """Return shifts that bring the largest ``scaled`` sums to between half of the type's limit and twice that limit."""
        ideal = np.log2(np.maximum(scaled, 1) / np.iinfo(dtype).max)
        shift = np.round(ideal).astype(np.int64) + self.rng.integers(-1, 2, len(scaled))
        return shift.clip(0, MAX_SHIFT)

    def _weights(self, shape: tuple[int, ...]) -> Int8Array:
        """Random weights: of 8 bits, 4 or 2, of any size or only the largest; nearly none, half or all of them non-zero."""
        least, most = self.few_bits if self.rng.random() < self.with_few_bits else (-127, 127)
        values = self.rng.integers(least, most + 1, shape) if self.rng.random() < 0.8 else self.rng.choice([least, most], shape)
        kept = self.rng.random(shape) < self.rng.choice([0.1, 0.5, 1.0])
        return np.where(kept, values, 0).astype(np.int8)

    def _bias(self, channels: int) -> Int32Array:
        """Random biases, now and then one that no sum of products outweighs."""
        limit = np.where(self.rng.random(channels) < 0.05, 2**22, self.rng.choice([0, 100, 10_000]))
        return self.rng.integers(-limit, limit + 1).astype(np.int32)

    def _geometry(self) -> Geometry:
        """A random kernel, stride and padding that fit the last tensor and keep within the size's extent."""
        axes = [self._axis(extent) for extent in self._shape[:2]]
        (kernel_h, stride_h, top, bottom), (kernel_w, stride_w, left, right) = axes
        return (kernel_h, kernel_w), (stride_h, stride_w), (top, left, bottom, right)

    def _axis(self, extent: int) -> tuple[int, int, int, int]:
        """Kernel, stride, padding before and after along one axis."""
        kernel, stride = self._up_to(5), int(self.rng.choice([1, 1, 2, 3]))
        before, after = (int(p) for p in self.rng.integers(0, kernel, 2))
        if extent + before + after < kernel:
            before = kernel - 1
        if extent + before + after - kernel >= self.size.extent:
            kernel, before, after = min(kernel, extent), 0, 0
        return kernel, stride, before, after

    def _window(self) -> tuple[int, int]:
        height, width = self._shape[:2]
        return self._up_to(min(3, height)), self._up_to(min(3, width))

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.tensors[self.last].shape

    def _map(
        self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int], channels: int
    ) -> tuple[int, int, int]:
        """Shape that a window sliding over the last tensor writes."""
        height = (self._shape[0] + padding[0] + padding[2] - kernel[0]) // stride[0] + 1
        width = (self._shape[1] + padding[1] + padding[3] - kernel[1]) // stride[1] + 1
        return height, width, channels

    def _append(self, op: Op, shape: tuple[int, int, int], dtype: DType, scale: float | None = None) -> None:
        self.ops.append(op)
        self.tensors[op.name] = TensorType(shape, dtype, float(self.rng.uniform(1e-3, 1)) if scale is None else scale)
        self.values[op.name] = run_op(op, self.values, self.tensors)
        self.last = op.name

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.ops)}"

    def _up_to(self, limit: int) -> int:
        return int(self.rng.integers(1, limit + 1))
