"""The dimensions of Ω: one for every decision that building an architecture may take, in a fixed order.

Names, values and ranges depend on the limits alone, never on what was chosen before; whether a dimension takes part, and
which of its values can be built at that point, is said by ``suggest``'s walk.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.limits import SpaceLimits

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of ``values``; ``ordered`` where neighbours in the list are alike. ``feasible`` are those that can be built here.

    ``weights`` is how likely a draw takes each of ``values``, relative to the others; empty: all are as likely.
    """

    name: str
    values: tuple[Value, ...]
    feasible: tuple[Value, ...]
    ordered: bool = True
    weights: tuple[float, ...] = ()

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    def among(self, feasible: tuple[Value, ...]) -> "Choice":
        """Return the same choice where only ``feasible`` can be built."""
        return Choice(self.name, self.values, feasible, self.ordered, self.weights)

    def at(self, quantile: float) -> Value:
        """Return the feasible value at ``quantile`` in [0, 1); a uniform quantile makes a random draw."""
        if not self.weights:
            return self.feasible[int(quantile * len(self.feasible))]
        weights = dict(zip(self.values, self.weights, strict=True))
        rest = quantile * sum(weights[value] for value in self.feasible)
        for value in self.feasible[:-1]:
            rest -= weights[value]
            if rest < 0:
                return value
        return self.feasible[-1]

    def nearest(self, value: Value) -> Value:
        """Return the feasible value nearest to ``value``, the smaller of two; of unordered values the first.

        Raises ArchitectureError where ``value`` is none of ``values``.
        """
        if value not in self.values:
            raise ArchitectureError(f"{self.name} must be one of {', '.join(map(repr, self.values))}, but is {value!r}")
        if value in self.feasible:
            return value
        if not self.ordered:
            return self.feasible[0]
        position = self.values.index(value)
        return min(self.feasible, key=lambda other: abs(self.values.index(other) - position))

    @property
    def width(self) -> int:
        """Number of coordinates: one, but for an unordered choice of more than two values one for each."""
        return 1 if self.ordered or len(self.values) <= 2 else len(self.values)

    def coordinates(self, value: Value) -> list[float]:
        """Return where ``value`` lies in ``values``, from 0 for the first to 1 for the last; or which it is, one-hot."""
        position = self.values.index(value)
        if self.width == 1:
            return [position / (len(self.values) - 1)]
        return [float(index == position) for index in range(len(self.values))]


@dataclass(frozen=True, slots=True)
class Range:
    """A number from ``low`` to ``high``, both included, measured by its logarithm; whole where ``integer``."""

    name: str
    low: float
    high: float
    integer: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return self.low == self.high

    def at(self, quantile: float) -> Value:
        """Return the value at ``quantile`` in [0, 1): log-uniform for a uniform quantile."""
        if self.integer:
            return min(int(self.low * math.pow((self.high + 1) / self.low, quantile)), int(self.high))
        return min(self.low * math.pow(self.high / self.low, quantile), self.high)

    def nearest(self, value: Value) -> Value:
        """Return ``value``. Raises ArchitectureError where it is no number of the range."""
        if isinstance(value, str) or not self.low <= value <= self.high or (self.integer and value != int(value)):
            whole = "a whole number " if self.integer else ""
            raise ArchitectureError(f"{self.name} must be {whole}from {self.low} to {self.high}, but is {value!r}")
        return value

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return 1

    def coordinates(self, value: Value) -> list[float]:
        """Return where ``value`` lies, from 0 at ``low`` to 1 at ``high``."""
        return [math.log(float(value) / self.low) / math.log(self.high / self.low)]


Dimension = Choice | Range


@lru_cache(maxsize=64)
def dimensions(limits: SpaceLimits) -> tuple[Dimension, ...]:
    """Return the dimensions that ``limits`` leave open, in a fixed order; all values feasible."""
    return tuple(dimension for dimension in table(limits).values() if not dimension.is_fixed)


@lru_cache(maxsize=64)
def table(limits: SpaceLimits) -> Mapping[str, Dimension]:
    """Return every dimension by its name, those of a single value included."""
    return MappingProxyType({dimension.name: dimension for dimension in _all(limits)})


# How likely draws are. Every value stays possible; what small networks mostly look like is drawn more often, since a
# chain of uniform draws rarely makes one that learns: a single stage of two channels or one pixel too early ruins it.


def _all(limits: SpaceLimits) -> Iterator[Dimension]:
    """Every dimension that some walk can reach."""
    yield from _pool("downsample", limits.downsamples, limits)
    yield _ordered("blocks", limits.blocks)
    for index in range(limits.blocks[-1]):
        yield from _block(limits, f"block{index}")
        if index < limits.blocks[-1] - 1:  # the last block is routed to the classifier in any case
            yield _ordered(f"block{index}.branch", limits.branches, lambda on: 0.25 if on else 0.75)
    yield _category("head.kind", limits.heads, lambda kind: 0.85 if kind == "flatten" else 0.15)
    yield _ordered("head.hidden", limits.hidden, lambda units: 1.0 if units else 4.0)
    yield from _training(limits)


def _block(limits: SpaceLimits, name: str) -> Iterator[Dimension]:
    yield _ordered(f"{name}.convs", limits.convs, lambda count: 1.0 / count)
    for index in range(limits.convs[-1]):
        yield from _conv(limits, f"{name}.conv{index}")
    if limits.convs[-1] > 1:
        yield _ordered(f"{name}.residual", limits.residuals, lambda on: 0.3 if on else 0.7)
    yield from _pool(f"{name}.pool", limits.pools, limits)


def _conv(limits: SpaceLimits, name: str) -> Iterator[Dimension]:
    yield _category(f"{name}.kind", limits.kinds, {"regular": 3.0, "separable": 2.0, "reduced": 1.0}.__getitem__)
    if "reduced" in limits.kinds:
        yield _ordered(f"{name}.reduced_channels", limits.reduced_channels, math.sqrt)
    yield _ordered(f"{name}.kernel", limits.kernels, lambda size: {3: 4.0, 5: 2.0}.get(size, 1.0))
    if limits.kernels[-1] > 1:
        yield _category(f"{name}.padding", limits.paddings, lambda padding: 0.75 if padding == "same" else 0.25)
    yield _ordered(f"{name}.stride", limits.strides, lambda stride: 1.0 / stride**2.5)
    yield _ordered(f"{name}.channels", limits.channels, math.sqrt)
    yield _ordered(f"{name}.batch_norm", limits.batch_norms, lambda on: 0.75 if on else 0.25)


def _pool(name: str, windows: tuple[int, ...], limits: SpaceLimits) -> Iterator[Dimension]:
    yield _ordered(f"{name}.window", windows, lambda window: 1.0 / window)
    if windows[-1] > 1:
        yield _category(f"{name}.kind", limits.pool_kinds)


def _training(limits: SpaceLimits) -> Iterator[Dimension]:
    training = limits.training
    yield _category("training.optimiser", training.optimisers)
    yield Range("training.learning_rate", *training.learning_rate)
    yield _category("training.schedule", training.schedules)
    yield _ordered("training.batch_size", training.batch_sizes)
    yield Range("training.epochs", *training.epochs, integer=True)
    yield _ordered("training.weight_decay", training.weight_decays)
    yield _ordered("training.dropout", training.dropouts, lambda share: 1.0 if share else 2.0)
    yield _ordered("training.augmentation", training.augmentations)
    yield _ordered("training.weight_bits", training.weight_bits)
    yield _category("training.pruning.method", training.methods)
    if training.methods != ("none",):
        yield Range("training.pruning.strength", *training.strength)
        yield _ordered("training.pruning.warmup", training.warmups)
        yield _ordered("training.pruning.threshold", training.thresholds)


def _ordered(name: str, values: tuple[Any, ...], weight: Callable[[Any], float] | None = None) -> Choice:
    return Choice(name, values, values, weights=() if weight is None else tuple(map(weight, values)))


def _category(name: str, values: tuple[Any, ...], weight: Callable[[Any], float] | None = None) -> Choice:
    return replace(_ordered(name, values, weight), ordered=False)
