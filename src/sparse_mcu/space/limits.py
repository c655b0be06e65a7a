"""The limits of Ω as data: which values every part of an architecture may take, chosen from an input shape and a board.

A list of numbers is ascending and spaced evenly in its effect (widths, batch sizes: by a factor), for its positions are what
the search measures distances with. Kernels, strides and windows are given as one number k: (k, k), or (1, k) for a signal.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sparse_mcu.errors import ArchitectureError, BudgetError
from sparse_mcu.space._json import read
from sparse_mcu.space.architecture import Architecture, Block, Conv, ConvKind, Head, Pool, PoolKind, Size
from sparse_mcu.space.layers import Shape, layers
from sparse_mcu.space.memory import Peak, peak_activations

Padding = Literal["same", "valid"]
WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
WEIGHTS_PER_FLASH_BYTE = 2  # dense weights that may be trained per byte of flash: pruning removes most of them


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """Values of θ. ``learning_rate``, ``epochs`` and ``strength`` are ranges (lowest, highest), searched by their logarithm."""

    learning_rate: tuple[float, float] = (7e-3, 5e-2)  # in a stage's few hundred steps hardly any network learns with less
    epochs: tuple[int, int] = (10, 60)
    # A hard task keeps few weights with more than a tenth, an easy one loses half of them with ten.
    strength: tuple[float, float] = (0.01, 10.0)
    optimisers: tuple[Literal["adam", "sgd"], ...] = ("adam",)
    schedules: tuple[Literal["cosine", "constant"], ...] = ("cosine",)
    batch_sizes: tuple[int, ...] = (32, 64, 128)
    weight_decays: tuple[float, ...] = (0.0, 1e-4, 1e-3)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.2)
    augmentations: tuple[float, ...] = (0.0, 1.0)
    weight_bits: tuple[int, ...] = (8,)  # all that runs knew which began before there were others
    methods: tuple[Literal["none", "unstructured", "structured", "both"], ...] = ("unstructured", "structured", "both")
    warmups: tuple[float, ...] = (0.3,)
    thresholds: tuple[float, ...] = (3.0,)


@dataclass(frozen=True, slots=True)
class SpaceLimits:
    """Every architecture of Ω takes its values from here. A list of one value fixes that value."""

    input_shape: Shape  # (C, H, W)
    classes: int
    max_activation_bytes: int  # at the peak, see ``memory``
    max_weights: int  # before pruning
    downsamples: tuple[int, ...] = (1, 2)  # windows; 1: none
    pool_kinds: tuple[PoolKind, ...] = ("max", "average")
    blocks: tuple[int, ...] = (1, 2, 3)
    convs: tuple[int, ...] = (1, 2, 3)  # per block
    kinds: tuple[ConvKind, ...] = ("regular", "separable", "reduced")
    kernels: tuple[int, ...] = (1, 2, 3, 4, 5)
    channels: tuple[int, ...] = WIDTHS[:9]
    reduced_channels: tuple[int, ...] = WIDTHS[:7]
    strides: tuple[int, ...] = (1, 2)
    paddings: tuple[Padding, ...] = ("same", "valid")
    batch_norms: tuple[bool, ...] = (False, True)
    pools: tuple[int, ...] = (1, 2, 3)  # windows; 1: none
    residuals: tuple[bool, ...] = (False, True)
    branches: tuple[bool, ...] = (False, True)
    heads: tuple[Literal["flatten", "global"], ...] = ("flatten", "global")
    hidden: tuple[int, ...] = (0, 8, 16, 32, 64)  # units; 0: no hidden layer
    training: TrainingLimits = TrainingLimits()

    def __post_init__(self) -> None:
        _check_lists(self)
        _check_lists(self.training)
        for name in ("downsamples", "kernels", "strides", "pools"):
            if getattr(self, name)[0] != 1:  # what fits every map, however small
                raise ArchitectureError(f"{name} must start at 1, but is {getattr(self, name)}")
        for name, always in (("paddings", "same"), ("residuals", False), ("heads", "flatten")):
            if always not in getattr(self, name):  # what can be built whatever comes before
                raise ArchitectureError(f"{name} must contain {always!r}, but is {getattr(self, name)}")

    @classmethod
    def for_input(cls, input_shape: Shape, classes: int, ram_bytes: int, flash_bytes: int) -> "SpaceLimits":
        """Choose limits for images of ``input_shape`` (C, H, W) and a board.

        Raises BudgetError where the smallest of the networks does not fit in RAM, naming what binds and the budget that would do.
        """
        extent = min(live_extents(input_shape, input_shape), default=1)
        large = flash_bytes >= 64 * 1024
        channels = _widths(ram_bytes, flash_bytes)
        limits = cls(
            input_shape,
            classes,
            max_activation_bytes=ram_bytes,
            max_weights=WEIGHTS_PER_FLASH_BYTE * flash_bytes,
            downsamples=tuple(window for window in (1, 2, 3, 4, 6, 8) if window == 1 or extent // window >= 7),
            blocks=(1, 2, 3, 4) if large else (1, 2, 3),
            kernels=tuple(kernel for kernel in range(1, 8) if kernel <= extent // 2 + 1),
            channels=channels,
            reduced_channels=channels[:-2],
            strides=(1, 2, 3) if extent >= 16 else (1, 2),
            pools=tuple(window for window in (1, 2, 3, 4) if window == 1 or extent // window >= 4),
            hidden=(0, 8, 16, 32, 64, 128) if large else (0, 8, 16, 32, 64),
            training=TrainingLimits(weight_bits=(4, 8)),  # 2 costs small networks more than it saves: benchmarks/RESULTS.md
        )
        _check_reachable(limits)
        return limits

    def size(self, extent: int) -> Size:
        """Return the kernel, stride or window that the number ``extent`` stands for: 1 along an axis the input does not have."""
        _, height, width = self.input_shape
        return (extent if height > 1 else 1, extent if width > 1 else 1)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary of JSON values that ``from_json`` turns back into equal limits."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "SpaceLimits":
        """Build limits from ``to_json``'s dictionary. Raises ArchitectureError on an unknown key or a wrong value."""
        return typing.cast(SpaceLimits, read(cls, value, "limits"))


def live_extents(input_shape: Shape, shape: Shape) -> list[int]:
    """Return height and width of ``shape``, without the axes that the input itself does not have."""
    return [extent for extent, whole in zip(shape[1:], input_shape[1:], strict=True) if whole > 1]


def _widths(ram_bytes: int, flash_bytes: int) -> tuple[int, ...]:
    """Widths of which two 4x4 maps fit in RAM, and a dense 3x3 convolution between them in flash; at least the first four."""
    widest = min(ram_bytes // 32, math.isqrt(flash_bytes // 9))
    return tuple(width for width in WIDTHS if width <= max(widest, WIDTHS[3]))


def _check_lists(limits: SpaceLimits | TrainingLimits) -> None:
    for field in dataclasses.fields(limits):
        values = getattr(limits, field.name)
        if field.name == "input_shape" or not isinstance(values, tuple):
            continue
        if not values:
            raise ArchitectureError(f"limits need at least one value for {field.name}, but have none")
        if not isinstance(values[0], str) and list(values) != sorted(values):
            raise ArchitectureError(f"{field.name} must be ascending, but is {values}")
        is_range = field.name in ("learning_rate", "epochs", "strength")
        if not is_range and len(set(values)) < len(values):
            raise ArchitectureError(f"{field.name} must not repeat a value, but is {values}")
        if is_range and values[0] <= 0:  # searched by its logarithm
            raise ArchitectureError(f"{field.name} must be above 0, but is {values}")
        least = 0 if field.name == "hidden" else 1
        if type(values[0]) is int and values[0] < least:
            raise ArchitectureError(f"{field.name} must be at least {least}, but is {values}")


def _check_reachable(limits: SpaceLimits) -> None:
    """Raise BudgetError where even the least demanding network holds more than ``max_activation_bytes`` at once."""
    least = min((peak_activations(layers(network)) for network in _smallest(limits)), key=lambda peak: peak.bytes)
    if least.bytes > limits.max_activation_bytes:
        raise BudgetError(unreachable_message(limits, least))


def unreachable_message(limits: SpaceLimits, least: Peak) -> str:
    """Say that no network of ``limits`` fits, what binds, and the nearest budget that some network meets."""
    channels, height, width = limits.input_shape
    return (
        f"feature maps must fit in {limits.max_activation_bytes} bytes of RAM, but for {channels}x{height}x{width} inputs the "
        f"smallest network holds {least.bytes} at '{least.layer}'; allow at least {least.bytes} bytes, or make the inputs smaller"
    )


def _smallest(limits: SpaceLimits) -> Iterator[Architecture]:
    """Networks of one convolution, of which one holds least: what follows the first map is smaller than what made it."""
    windows = {limits.downsamples[0], limits.downsamples[-1]}
    extent = min(live_extents(limits.input_shape, limits.input_shape), default=1)
    parts = itertools.product(windows, limits.kinds, limits.kernels, limits.strides, limits.paddings, limits.heads)
    for window, kind, kernel, stride, padding, head in parts:
        if padding == "valid" and kernel > extent // window:
            continue
        reduced = limits.reduced_channels[0] if kind == "reduced" else None
        conv = Conv(kind, limits.size(kernel), limits.channels[0], limits.size(stride), padding, reduced_channels=reduced)
        downsample = None if window == 1 else Pool(limits.pool_kinds[0], limits.size(window))
        yield Architecture(limits.input_shape, limits.classes, (Block((conv,)),), downsample, Head(head))
