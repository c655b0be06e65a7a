"""The one walk of Ω. Every architecture is built by it, whoever decides: a random draw, a recorded point, an Optuna trial.

The walk goes from the input to the classifier, then through θ. At every decision it calls ``choose`` with a ``Dimension`` and
takes the nearest value that can be built at that point, so that any answers make a buildable network. Dimensions of parts
that do not exist (a kernel of a missing layer, the kind of a missing pool) are not asked for: they are inactive.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from sparse_mcu.errors import ArchitectureError, BudgetError
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training
from sparse_mcu.space.dimensions import Choice, Dimension, Value, table
from sparse_mcu.space.layers import Layer, Shape, conv_shape, layers, pool_shape
from sparse_mcu.space.limits import Padding, SpaceLimits, live_extents, unreachable_message
from sparse_mcu.space.memory import peak_activations

Chooser = Callable[[Dimension], Value]
DRAWS = 2000  # after so many networks that do not fit, the limits are taken to hold none


def suggest(limits: SpaceLimits, choose: Chooser) -> Architecture:
    """Build the architecture that ``choose`` decides on, one dimension at a time.

    What it returns can always be built; whether it fits the limits of RAM and weights is ``fits``'s question.
    """
    walk = _Walk(limits, choose)
    downsample, shape = walk.pool("downsample", limits.input_shape)
    count = walk.pick("blocks")
    blocks: list[Block] = []
    routed: list[Shape] = []
    for index in range(count):
        block, shape = walk.block(f"block{index}", shape, is_last=index == count - 1)
        blocks.append(block)
        if block.branch or index == count - 1:
            routed.append(shape)
    return Architecture(limits.input_shape, limits.classes, tuple(blocks), downsample, walk.head(routed), walk.training())


def sample(limits: SpaceLimits, rng: np.random.Generator) -> Architecture:
    """Draw an architecture that fits ``limits``: every decision among what can be built there, redrawn until all fits.

    Raises BudgetError where nothing drawn fits, with the nearest budget that some drawn network meets.
    """
    drawn = []
    for _ in range(DRAWS):
        architecture = suggest(limits, lambda dimension: dimension.at(rng.random()))
        network = layers(architecture)
        if _fits(limits, network):
            return architecture
        drawn.append(network)
    raise BudgetError(_unreachable(limits, drawn))


def _unreachable(limits: SpaceLimits, drawn: list[tuple[Layer, ...]]) -> str:
    least = min((peak_activations(network) for network in drawn), key=lambda peak: peak.bytes)
    if least.bytes > limits.max_activation_bytes:
        return unreachable_message(limits, least)
    weights = min(_weights(network) for network in drawn if peak_activations(network).bytes <= limits.max_activation_bytes)
    return (
        f"a network may have at most {limits.max_weights} weights, but the smallest of {len(drawn)} drawn has {weights}; "
        f"allow at least {weights}, which takes more flash, or make the inputs smaller"
    )


def decode(limits: SpaceLimits, assignment: Mapping[str, Value]) -> Architecture:
    """Build the architecture of recorded values by dimension name; values of inactive dimensions are ignored.

    Raises ArchitectureError on a name that is no dimension, a missing active one, or a value outside the limits.
    """
    unknown = sorted(set(assignment) - set(table(limits)))
    if unknown:
        raise ArchitectureError(f"these limits have no dimension {unknown[0]!r}")

    def recorded(dimension: Dimension) -> Value:
        if dimension.name not in assignment:
            raise ArchitectureError(f"an assignment needs every active dimension, but lacks {dimension.name!r}")
        return assignment[dimension.name]

    return suggest(limits, recorded)


def assignment(limits: SpaceLimits, architecture: Architecture) -> dict[str, Value]:
    """Return the values of the active dimensions, in order: the inverse of ``decode``.

    Raises ArchitectureError, naming the dimension, where ``architecture`` lies outside ``limits``.
    """
    return dict(_assignment(limits, architecture))


@lru_cache(maxsize=1024)  # a parent is read again for every morph of it, a trial for every fit of the surrogate
def _assignment(limits: SpaceLimits, architecture: Architecture) -> tuple[tuple[str, Value], ...]:
    if (limits.input_shape, limits.classes) != (architecture.input_shape, architecture.classes):
        raise ArchitectureError(
            f"these limits are for {limits.input_shape} inputs and {limits.classes} classes, "
            f"but the architecture has {architecture.input_shape} and {architecture.classes}"
        )
    values = _values(architecture)
    active: dict[str, Value] = {}

    def read(dimension: Dimension) -> Value:
        if dimension.name not in values:  # the limits fix how many blocks or convolutions there are, and here are fewer
            raise ArchitectureError(f"the architecture lies outside these limits: it lacks {dimension.name!r}")
        active[dimension.name] = values[dimension.name]
        return active[dimension.name]

    rebuilt = suggest(limits, read)
    if rebuilt != architecture:
        raise ArchitectureError(_difference(_values(rebuilt), values))
    return tuple(active.items())


def contains(limits: SpaceLimits, architecture: Architecture) -> bool:
    """Whether ``architecture`` lies within ``limits`` and fits them."""
    try:
        assignment(limits, architecture)
    except ArchitectureError:
        return False
    return fits(limits, architecture)


def fits(limits: SpaceLimits, architecture: Architecture) -> bool:
    """Whether feature maps and dense weights of ``architecture`` stay below the limits' bounds."""
    return _fits(limits, layers(architecture))


def _fits(limits: SpaceLimits, network: tuple[Layer, ...]) -> bool:
    return _weights(network) <= limits.max_weights and peak_activations(network).bytes <= limits.max_activation_bytes


def _weights(network: tuple[Layer, ...]) -> int:
    return sum(layer.weights for layer in network)


class _Walk:
    """Asks for the parts of an architecture; ``shape`` is always that of the map a part reads."""

    def __init__(self, limits: SpaceLimits, choose: Chooser) -> None:
        self.limits = limits
        self.choose = choose
        self.table = table(limits)

    def pick(self, name: str, feasible: tuple[Any, ...] | None = None) -> Any:
        """Return the value chosen for ``name``, brought to the nearest of ``feasible`` (None: all values are)."""
        dimension = self.table[name]
        if dimension.is_fixed:
            return dimension.at(0.0)
        if feasible is not None and isinstance(dimension, Choice):
            dimension = dimension.among(feasible)
        return dimension.nearest(self.choose(dimension))

    def block(self, name: str, shape: Shape, is_last: bool) -> tuple[Block, Shape]:
        convs: list[Conv] = []
        joined: int | None = None  # the width of the residual connection
        count = self.pick(f"{name}.convs")
        for index in range(count):
            if index == count - 2 and self.residual(name, shape):
                joined = shape[0]
            conv = self.conv(f"{name}.conv{index}", shape, joined, is_last=index == count - 1)
            convs.append(conv)
            shape = conv_shape(name, shape, conv)
        pool, shape = self.pool(f"{name}.pool", shape)
        branch = False if is_last else self.pick(f"{name}.branch")
        return Block(tuple(convs), pool, joined is not None, branch), shape

    def residual(self, name: str, shape: Shape) -> bool:
        """Whether the next two convolutions, the first reading ``shape``, are bridged; they must keep its size and width."""
        joinable = shape[0] in self.limits.channels
        return bool(self.pick(f"{name}.residual", self.limits.residuals if joinable else (False,)))

    def conv(self, name: str, shape: Shape, joined: int | None, is_last: bool) -> Conv:
        """Ask for a convolution that reads ``shape``; under a residual connection of ``joined`` channels unless that is None."""
        limits, channels, extent = self.limits, shape[0], self.extent(shape)
        reduced = _upto(limits.reduced_channels, channels - 1)
        kind = self.pick(f"{name}.kind", tuple(k for k in limits.kinds if k != "reduced" or reduced) or limits.kinds)
        reduced_channels = None
        if kind == "reduced":
            reduced_channels = self.pick(f"{name}.reduced_channels", reduced or limits.reduced_channels[:1])
        # the middle of a larger kernel would meet the map, but its rim only padding: weights that nothing reads
        kernel = self.pick(f"{name}.kernel", _upto(limits.kernels, 2 * extent - 1))
        padding: Padding = "same"
        if kernel > 1:
            padding = self.pick(f"{name}.padding", limits.paddings if kernel <= extent and joined is None else ("same",))
        rows = extent - kernel + 1 if padding == "valid" else extent
        stride = self.pick(f"{name}.stride", _upto(limits.strides, rows) if joined is None else (1,))
        return Conv(
            kind,
            limits.size(kernel),
            self.pick(f"{name}.channels", (joined,) if joined is not None and is_last else None),
            limits.size(stride),
            padding,
            self.pick(f"{name}.batch_norm"),
            reduced_channels,
        )

    def pool(self, name: str, shape: Shape) -> tuple[Pool | None, Shape]:
        windows = self.limits.downsamples if name == "downsample" else self.limits.pools
        window = self.pick(f"{name}.window", _upto(windows, self.extent(shape)))
        if window == 1:
            return None, shape
        pool = Pool(self.pick(f"{name}.kind"), self.limits.size(window))
        return pool, pool_shape(name, shape, pool)

    def head(self, routed: list[Shape]) -> Head:
        head = Head()
        if any(shape[1:] != (1, 1) for shape in routed):  # on single pixels the average changes nothing
            head = Head(self.pick("head.kind"))
        return replace(head, hidden=self.pick("head.hidden") or None)

    def training(self) -> Training:
        names = (field.name for field in fields(Training) if field.name != "pruning")
        return Training(**{name: self.pick(f"training.{name}") for name in names}, pruning=self.pruning())

    def pruning(self) -> Pruning:
        method = self.pick("training.pruning.method")
        if method == "none":
            return Pruning("none")
        names = (field.name for field in fields(Pruning) if field.name != "method")
        return Pruning(method, **{name: self.pick(f"training.pruning.{name}") for name in names})

    def extent(self, shape: Shape) -> int:
        """The smaller of height and width, or the length of a signal."""
        return min(live_extents(self.limits.input_shape, shape), default=1)


@lru_cache(maxsize=1024)
def _upto(values: tuple[int, ...], bound: int) -> tuple[int, ...]:
    return tuple(value for value in values if value <= bound)


def _values(architecture: Architecture) -> dict[str, Value]:
    """Every dimension's value that ``architecture`` has, by name; the inverse of the walk, feasible or not."""
    values: dict[str, Value] = {"blocks": len(architecture.blocks)}
    values |= _pool_values("downsample", architecture.downsample)
    for index, block in enumerate(architecture.blocks):
        values |= _block_values(f"block{index}", block)
    values |= {"head.kind": architecture.head.kind, "head.hidden": architecture.head.hidden or 0}
    training, pruning = architecture.training, architecture.training.pruning
    values |= {f"training.{f.name}": getattr(training, f.name) for f in fields(Training) if f.name != "pruning"}
    values |= {f"training.pruning.{f.name}": getattr(pruning, f.name) for f in fields(Pruning)}
    return values


def _block_values(name: str, block: Block) -> dict[str, Value]:
    values: dict[str, Value] = {
        f"{name}.convs": len(block.convs),
        f"{name}.residual": block.residual,
        f"{name}.branch": block.branch,
    }
    for index, conv in enumerate(block.convs):
        values |= {
            f"{name}.conv{index}.kind": conv.kind,
            f"{name}.conv{index}.kernel": max(conv.kernel),
            f"{name}.conv{index}.padding": conv.padding,
            f"{name}.conv{index}.stride": max(conv.stride),
            f"{name}.conv{index}.channels": conv.channels,
            f"{name}.conv{index}.batch_norm": conv.batch_norm,
        }
        if conv.reduced_channels is not None:
            values[f"{name}.conv{index}.reduced_channels"] = conv.reduced_channels
    return values | _pool_values(f"{name}.pool", block.pool)


def _pool_values(name: str, pool: Pool | None) -> dict[str, Value]:
    return {f"{name}.window": 1} if pool is None else {f"{name}.window": max(pool.window), f"{name}.kind": pool.kind}


def _difference(inside: dict[str, Value], outside: dict[str, Value]) -> str:
    """Say which value keeps an architecture outside the limits, and the one nearest to it inside."""
    for name, value in outside.items():
        if name not in inside or inside[name] != value:
            return f"{name} is {value!r}, which these limits do not hold here; nearest is {inside.get(name)!r}"
    return "kernels, strides and windows must be k x k, or 1 x k for a signal, but are not"
