"""The three stages of a search (METHOD section 4): explore Ω, morph what is on the front, refine it.

A stage decides where candidates come from and how long they train. It ends when its share of the budget is used. Training is
measured in steps of the optimiser: what small networks need of them hardly depends on the size of the data set or the batch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.limits import SpaceLimits

FEWEST_EPOCHS = 2  # however large the data set: pruning, then what it left


@dataclass(frozen=True, slots=True)
class Stage:
    """It ends when the share ``until`` of the budget is used; its candidates train for about ``steps``."""

    name: Literal["explore", "morph", "refine"]
    until: float
    steps: int


EXPLORE = Stage("explore", until=0.45, steps=600)
MORPH = Stage("morph", until=0.8, steps=400)  # a child begins with its parent's weights and needs fewer
REFINE = Stage("refine", until=1.0, steps=1200)
STAGES = (EXPLORE, MORPH, REFINE)


def stage_at(used: float) -> Stage:
    """Return the stage of a search that has used the share ``used`` of its budget."""
    return next((stage for stage in STAGES if used < stage.until), STAGES[-1])


def trained_for(architecture: Architecture, steps: float, images: int) -> Architecture:
    """Return ``architecture`` with the epochs that make up about ``steps`` on a training split of ``images``."""
    epochs = _epochs(steps, architecture.training.batch_size, images)
    return dataclasses.replace(architecture, training=dataclasses.replace(architecture.training, epochs=epochs))


def steps_of(architecture: Architecture, images: int) -> float:
    """Return for how many steps ``architecture`` trains on ``images``."""
    return architecture.training.epochs * images / architecture.training.batch_size


def with_stages(limits: SpaceLimits, images: int) -> SpaceLimits:
    """Return ``limits`` with the range of epochs that the stages set on a training split of ``images``."""
    training = limits.training
    fewest = _epochs(min(stage.steps for stage in STAGES), training.batch_sizes[0], images)
    most = _epochs(max(stage.steps for stage in STAGES), training.batch_sizes[-1], images)
    return dataclasses.replace(limits, training=dataclasses.replace(training, epochs=(fewest, most)))


def _epochs(steps: float, batch_size: int, images: int) -> int:
    return max(FEWEST_EPOCHS, round(steps * batch_size / images))
