"""What goes into an evaluation and what comes out: the values that travel between the search and its workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.boards import Board
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.search.rungs import Rungs
from sparse_mcu.space.architecture import Architecture

Weights = dict[str, npt.NDArray[np.float32]]  # as nn.Network.weights returns them


@dataclass(frozen=True, slots=True, eq=False)
class Parent:
    """A trained network that a candidate begins with."""

    architecture: Architecture
    weights: Weights


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """What a larger network says about the training images, of which there are N."""

    accuracy: float  # on the validation split
    logits: npt.NDArray[np.float32]  # (N, classes)
    mirrored: bool = False  # what it says holds for mirror images too


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A network to train, prune, quantise and measure for ``board``; ``seed`` decides all that is random in it."""

    architecture: Architecture
    board: Board
    seed: int
    parent: Parent | None = None  # None: from scratch
    rungs: Rungs | None = None  # where its training may end early; None: nowhere
    ram_bytes: int | None = None  # that its C should keep within, the board's unless given
    polish: bool = False  # train the parent on as it is, at fixed sparsity
    teacher: Teacher | None = None  # None: it learns from the labels alone


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What became of a candidate."""

    objectives: Mapping[str, float]  # raw, by the names of ``objectives.UNITS``
    graph: IntegerGraph
    weights: Weights
    log: Mapping[str, Any]  # JSON values
    rungs: tuple[Mapping[str, float], ...] = ()  # objectives at each rung that the training reached
    stopped: bool = False  # at the last of them
