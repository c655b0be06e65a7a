"""What every point of the table shares: the search space, the board and its budget, the data, how long a network trains.

It is what ``sparse-mcu search digits --board arduino-uno --ram 1K --flash 8K`` searches, with one difference: every network
trains from scratch for STEPS steps of its optimiser. The dimension ``training.epochs`` of Ω changes nothing here: two
architectures that differ in it alone are the same point.
"""

import dataclasses
import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.search.objectives import DEFAULT_OBJECTIVES, Budget, Goal
from sparse_mcu.search.stages import EXPLORE, trained_for, with_stages
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.dimensions import Value
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import assignment, decode

BOARD = board("arduino-uno")
BUDGET = Budget(ram_bytes=1024, flash_bytes=8192)
GOAL = Goal.of(DEFAULT_OBJECTIVES, BUDGET)
IMAGES = 1079  # of the training split
STEPS = 200
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the epochs, after which a network is measured
LIMITS = with_stages(SpaceLimits.for_input((1, 8, 8), 10, BUDGET.ram_bytes, BUDGET.flash_bytes), IMAGES)
LIMITS = dataclasses.replace(LIMITS, training=dataclasses.replace(LIMITS.training, weight_bits=(8,)))  # as the table was made
TABLE = Path(__file__).parent / "points.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Point:
    """A line of the table. ``curve`` holds the objectives after each of SHARES; the last is what the training came to."""

    number: int
    parent: int | None  # number of the point that it is a morph of; None: drawn from all of Ω
    values: Mapping[str, Value]  # of the active dimensions
    curve: tuple[Mapping[str, float], ...]  # raw, by the names of search.objectives.UNITS
    seconds: float  # on one core that others used too

    @property
    def architecture(self) -> Architecture:
        """The point of Ω, as ``standard`` returns it."""
        return decode(LIMITS, self.values)

    @property
    def objectives(self) -> Mapping[str, float]:
        """What the trained network measures."""
        return self.curve[-1]


@functools.cache
def dataset() -> Dataset:
    """Return the images."""
    digits = load("digits")
    assert len(digits.train) == IMAGES, len(digits.train)
    return digits


def standard(architecture: Architecture) -> Architecture:
    """Return ``architecture`` with the epochs that stand for any: those of the search's first stage."""
    return trained_for(architecture, EXPLORE.steps, IMAGES)


def trained(architecture: Architecture) -> Architecture:
    """Return ``architecture`` as the table trains it; its epochs may be fewer than any in Ω."""
    return trained_for(architecture, STEPS, IMAGES)


def values(architecture: Architecture) -> Mapping[str, Value]:
    """Return the active dimensions of ``architecture`` as the table stores them."""
    return assignment(LIMITS, architecture)


def read_points(path: Path = TABLE) -> list[Point]:
    """Read a table, in the order of its numbers; lines that a kill cut short are left out."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.endswith("}\n")]
    return [Point(**{**value, "curve": tuple(value["curve"])}) for value in map(json.loads, lines)]
