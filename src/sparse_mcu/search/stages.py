"""The three stages of a search (METHOD section 4): explore Ω, morph what is on the front, refine it.

A stage decides where candidates come from and how long they train. It ends when its share of the budget is used.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.limits import SpaceLimits


@dataclass(frozen=True, slots=True)
class Stage:
    """It ends when the share ``until`` of the budget is used; ``effort`` is its place in Ω's range of epochs, by logarithm."""

    name: Literal["explore", "morph", "refine"]
    until: float
    effort: float


EXPLORE = Stage("explore", until=0.4, effort=0.5)
MORPH = Stage("morph", until=0.8, effort=0.2)  # a child begins with its parent's weights and needs fewer
REFINE = Stage("refine", until=1.0, effort=1.0)
STAGES = (EXPLORE, MORPH, REFINE)


def stage_at(used: float) -> Stage:
    """Return the stage of a search that has used the share ``used`` of its budget."""
    return next((stage for stage in STAGES if used < stage.until), STAGES[-1])


def epochs_of(stage: Stage, limits: SpaceLimits) -> int:
    """Return how many epochs the candidates of ``stage`` train for."""
    fewest, most = limits.training.epochs
    return round(math.exp((1.0 - stage.effort) * math.log(fewest) + stage.effort * math.log(most)))


def with_epochs(architecture: Architecture, epochs: int) -> Architecture:
    """Return ``architecture`` trained for ``epochs``."""
    return dataclasses.replace(architecture, training=dataclasses.replace(architecture.training, epochs=epochs))
