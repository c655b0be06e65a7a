"""Morphs: small changes of an architecture, each a pure function (architecture, limits, rng) -> Architecture | None.

A morph changes one thing, and then only what that makes unbuildable: a kernel that no longer fits behind a new pool shrinks to
the nearest that does. What it adds by itself (a layer, a block) can start as the identity, so that a child can begin with exactly
its parent's function. A morph returns None where nothing of its kind is possible within the limits.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from sparse_mcu.errors import ArchitectureError
from sparse_mcu.space.architecture import Architecture, Block, Conv, ConvKind
from sparse_mcu.space.dimensions import Choice, Dimension, Range, Value, dimensions
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import assignment, contains, fits, suggest

T = TypeVar("T")
Edits = Callable[[Architecture, SpaceLimits, np.random.Generator], Iterator[Architecture]]
Moves = Callable[[Dimension, Value, np.random.Generator], list[Value]]  # the values to try in place of one
Candidate = Callable[[], Architecture]
RANGE_STEP = 0.15  # standard deviation of a step in a range, as a share of it
INPUT = -1  # stands for the network's input where convolutions are counted from 0, through all blocks


@dataclass(frozen=True, slots=True)
class Morph:
    """A kind of change. ``edits`` yields the changes that stay within the limits, in random order and as they are asked for."""

    name: str
    edits: Edits

    def __call__(self, architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Architecture | None:
        """Return a changed architecture within ``limits``, or None where there is none of this kind."""
        return next(self.edits(architecture, limits, rng), None)


def morph(
    architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator, morphs: Sequence[Morph]
) -> tuple[str, Architecture]:
    """Return the name and the result of a random one of ``morphs`` (MORPHS, or SMALL_MORPHS to refine) that applies.

    Raises ArchitectureError where ``architecture`` lies outside ``limits``, or none applies.
    """
    for index in rng.permutation(len(morphs)):
        child = morphs[index](architecture, limits, rng)
        if child is not None:
            return morphs[index].name, child
    raise ArchitectureError(f"a morph must lead to another architecture within the limits, but none of {len(morphs)} does")


def _vary(pattern: str, moves: Moves) -> Edits:
    """Edits that move one active dimension whose name matches ``pattern``; what it switches on is drawn at random."""
    names = re.compile(pattern)

    def edits(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
        chosen = assignment(limits, architecture)
        affected = [d for d in dimensions(limits) if d.name in chosen and names.fullmatch(d.name)]
        changes = [(d.name, value) for d in affected for value in moves(d, chosen[d.name], rng)]
        for index in rng.permutation(len(changes)):
            child = _completed(limits, chosen | dict([changes[index]]), rng)
            if child != architecture and fits(limits, child):
                yield child

    return edits


def _completed(limits: SpaceLimits, chosen: dict[str, Value], rng: np.random.Generator) -> Architecture:
    """Build the architecture of ``chosen``, drawing what it lacks."""

    def choose(dimension: Dimension) -> Value:
        return chosen[dimension.name] if dimension.name in chosen else dimension.at(rng.random())

    return suggest(limits, choose)


def _others(dimension: Dimension, value: Value, rng: np.random.Generator) -> list[Value]:
    """Every other value of a choice."""
    assert isinstance(dimension, Choice), dimension
    return [other for other in dimension.values if other != value]


def _above(dimension: Dimension, value: Value, rng: np.random.Generator) -> list[Value]:
    """The next two larger values of an ordered choice."""
    assert isinstance(dimension, Choice), dimension
    return list(_next_two(dimension.values, dimension.values.index(value)))


def _below(dimension: Dimension, value: Value, rng: np.random.Generator) -> list[Value]:
    """The next two smaller values of an ordered choice."""
    assert isinstance(dimension, Choice), dimension
    return list(_last_two(dimension.values, dimension.values.index(value)))


def _next_two(values: Sequence[T], position: int) -> Sequence[T]:
    return values[position + 1 : position + 3]


def _last_two(values: Sequence[T], position: int) -> Sequence[T]:
    return values[max(position - 2, 0) : position]


def _near(dimension: Dimension, value: Value, rng: np.random.Generator) -> list[Value]:
    """A step either way in an ordered choice, any other value of an unordered one, a normal step in a range."""
    if isinstance(dimension, Range):
        (position,) = dimension.coordinates(value)
        return [dimension.at(min(max(rng.normal(position, RANGE_STEP), 0.0), 1.0))]
    if not dimension.ordered:
        return _others(dimension, value, rng)
    return _below(dimension, value, rng)[-1:] + _above(dimension, value, rng)[:1]


def _within(limits: SpaceLimits, candidates: Sequence[Candidate], rng: np.random.Generator) -> Iterator[Architecture]:
    """Yield those of ``candidates`` that lie within ``limits``, in random order; each is built when its turn comes."""
    for index in rng.permutation(len(candidates)):
        candidate = candidates[index]()
        if contains(limits, candidate):
            yield candidate


def _add_conv(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
    """Insert a convolution that can be the identity; never between the two of a residual connection, which would move it."""
    candidates = []
    for index, block in enumerate(architecture.blocks):
        places = len(block.convs) - 1 if block.residual else len(block.convs) + 1
        for place in range(places):
            for conv in _identities(architecture, limits, index, place):
                candidates.append(partial(_with_conv, architecture, index, place, conv))
    return _within(limits, candidates, rng)


def _with_conv(architecture: Architecture, index: int, place: int, conv: Conv) -> Architecture:
    block = architecture.blocks[index]
    return _with_block(architecture, index, replace(block, convs=(*block.convs[:place], conv, *block.convs[place:])))


def _add_block(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
    """Insert a block of one convolution that can be the identity."""
    blocks = architecture.blocks
    candidates = []
    for index in range(len(blocks) + 1):
        before = (index, 0) if index < len(blocks) else (index - 1, len(blocks[-1].convs))
        for conv in _identities(architecture, limits, *before):
            candidates.append(partial(replace, architecture, blocks=(*blocks[:index], Block((conv,)), *blocks[index:])))
    return _within(limits, candidates, rng)


def _identities(architecture: Architecture, limits: SpaceLimits, block: int, place: int) -> list[Conv]:
    """Convolutions that can pass on unchanged what conv ``place`` of ``block`` reads (or, behind the last, what it would)."""
    position = sum(len(b.convs) for b in architecture.blocks[:block]) + place
    convs = _convs(architecture)
    channels = convs[position - 1].channels if position else architecture.input_shape[0]
    batch_norm = convs[max(position - 1, 0)].batch_norm
    kinds: tuple[ConvKind, ...] = ("regular", "separable")
    kernels = [limits.size(kernel) for kernel in limits.kernels if kernel % 2]
    return [Conv(kind, kernel, channels, batch_norm=batch_norm) for kind, kernel in itertools.product(kinds, kernels)]


def _remove_conv(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
    candidates = []
    for index, block in enumerate(architecture.blocks):
        for place in range(len(block.convs)):
            convs = block.convs[:place] + block.convs[place + 1 :]
            candidates.append(partial(_with_block, architecture, index, replace(block, convs=convs)))
    return _within(limits, candidates, rng)


def _remove_block(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
    candidates = []
    for index in range(len(architecture.blocks)):
        blocks = architecture.blocks[:index] + architecture.blocks[index + 1 :]
        if blocks:
            blocks = (*blocks[:-1], replace(blocks[-1], branch=False))
            candidates.append(partial(replace, architecture, blocks=blocks))
    return _within(limits, candidates, rng)


def _rewiden(pick: Callable[[Sequence[int], int], Sequence[int]]) -> Edits:
    """Edits that change a width, and with it the widths that residual connections tie to it."""

    def edits(architecture: Architecture, limits: SpaceLimits, rng: np.random.Generator) -> Iterator[Architecture]:
        ties, convs, widths = _ties(architecture), _convs(architecture), limits.channels
        candidates = []
        for root in sorted(set(ties) - {INPUT}):
            for width in pick(widths, widths.index(convs[root].channels)):
                tied = [replace(c, channels=width) if tie == root else c for c, tie in zip(convs, ties, strict=True)]
                candidates.append(partial(_with_convs, architecture, tied))
        return _within(limits, candidates, rng)

    return edits


def _ties(architecture: Architecture) -> list[int]:
    """For every convolution the first whose width is the same by force of residual connections: itself, or INPUT."""
    ties: list[int] = []
    for block in architecture.blocks:
        ties += range(len(ties), len(ties) + len(block.convs))
        if block.residual:  # the shortcut starts behind the convolution three from the end
            ties[-1] = ties[-3] if len(ties) > 2 else INPUT
    return ties


def _convs(architecture: Architecture) -> list[Conv]:
    return [conv for block in architecture.blocks for conv in block.convs]


def _with_convs(architecture: Architecture, convs: Sequence[Conv]) -> Architecture:
    """Replace all convolutions, in order."""
    rest = iter(convs)
    blocks = (replace(block, convs=tuple(itertools.islice(rest, len(block.convs)))) for block in architecture.blocks)
    return replace(architecture, blocks=tuple(blocks))


def _with_block(architecture: Architecture, index: int, block: Block) -> Architecture:
    return replace(architecture, blocks=(*architecture.blocks[:index], block, *architecture.blocks[index + 1 :]))


_WIDEN = Morph("widen", _rewiden(_next_two))
_NARROW = Morph("narrow", _rewiden(_last_two))
_CHANGE_REDUCTION = Morph("change_reduction", _vary(r".*\.reduced_channels", _near))
_CHANGE_PRUNING = Morph("change_pruning", _vary(r"training\.pruning\..*", _near))
_CHANGE_TRAINING = Morph("change_training", _vary(r"training\.[^.]*", _near))

MORPHS: tuple[Morph, ...] = (
    Morph("add_conv", _add_conv),
    Morph("remove_conv", _remove_conv),
    Morph("add_block", _add_block),
    Morph("remove_block", _remove_block),
    _WIDEN,
    _NARROW,
    _CHANGE_REDUCTION,
    Morph("grow_kernel", _vary(r".*\.kernel", _above)),
    Morph("shrink_kernel", _vary(r".*\.kernel", _below)),
    Morph("change_kind", _vary(r"block.*\.conv\d+\.kind", _others)),
    Morph("change_stride", _vary(r".*\.stride", _others)),
    Morph("change_padding", _vary(r".*\.padding", _others)),
    Morph("change_pool", _vary(r"block.*\.pool\..*", _others)),
    Morph("change_downsample", _vary(r"downsample\..*", _others)),
    Morph("toggle_residual", _vary(r".*\.residual", _others)),
    Morph("toggle_batch_norm", _vary(r".*\.batch_norm", _others)),
    Morph("toggle_branch", _vary(r".*\.branch", _others)),
    Morph("change_hidden", _vary(r"head\.hidden", _near)),
    Morph("change_head", _vary(r"head\.kind", _others)),
    _CHANGE_TRAINING,
    _CHANGE_PRUNING,
)
SMALL_MORPHS: tuple[Morph, ...] = (_WIDEN, _NARROW, _CHANGE_REDUCTION, _CHANGE_TRAINING, _CHANGE_PRUNING)
