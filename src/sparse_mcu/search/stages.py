"""The stages of a search (METHOD section 4): explore Ω, morph what is on the front, refine it; and in the end, polish it.

A stage decides where candidates come from and how long they train. It ends when its share of the budget is used, or before when
the hypervolume stops growing. Training is measured in steps of the optimiser: what small networks need of them hardly depends on
the size of the data set or the batch.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparse_mcu.nn.train import EPOCH_IMAGES
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.limits import SpaceLimits

FEWEST_EPOCHS = 2  # however large the batches: pruning, then what it left


@dataclass(frozen=True, slots=True)
class Stage:
    """It ends when the share ``until`` of the budget is used, or once ``earliest`` is and nothing better is found any more.

    Its candidates train for about ``steps``.
    """

    name: Literal["explore", "morph", "refine", "polish"]
    earliest: float
    until: float
    steps: int


EXPLORE = Stage("explore", earliest=0.2, until=0.3, steps=600)
MORPH = Stage("morph", earliest=0.35, until=0.45, steps=400)  # a child begins with its parent's weights and needs fewer
REFINE = Stage("refine", earliest=0.5, until=0.6, steps=1200)
# Networks that err little train on as they are, for so many steps or more where there is time.
POLISH = Stage("polish", earliest=1.0, until=1.0, steps=4000)
STAGES = (EXPLORE, MORPH, REFINE, POLISH)
FEWEST_STEPS = min(stage.steps for stage in STAGES)
# Polishing has rounds, a third of its time each: fewer networks train on for longer. How long, as a share of that stage's time.
ROUND_LENGTHS = (1 / 24, 1 / 12, 1 / 6)
LONGEST_POLISHING = 64_000  # steps
TIME_MARGIN = 0.9  # of what is left of the time: steps take now more, now less of it
POLISHING_RATE, POLISHING_BATCH = 7e-3, 32
# The hypervolume has stopped growing where the later half of a stage's trials, at least so many, added less than this share.
PATIENCE = 15
LEAST_GROWTH = 0.005


def stage_at(
    used: float,
    begun: str | None,
    volumes: Sequence[float],
) -> Stage:
    """Return the stage of a search that has used the share ``used`` of its budget.

    ``begun`` names the stage of its newest trial, None where it has none; ``volumes`` is the hypervolume of the front after each
    finished trial of that stage.
    """
    index = next((index for index, stage in enumerate(STAGES) if stage.name == begun), 0)
    if used >= STAGES[index].earliest and is_stagnant(volumes):
        index += 1
    return next((stage for stage in STAGES[index:] if used < stage.until), STAGES[-1])


def is_stagnant(volumes: Sequence[float]) -> bool:
    """Say whether the later half of ``volumes``, at least PATIENCE of them, has hardly grown."""
    recent = max(PATIENCE, len(volumes) // 2)
    return len(volumes) > recent and volumes[-1] - volumes[-1 - recent] <= LEAST_GROWTH * volumes[-1]


def trained_for(architecture: Architecture, steps: float, images: int) -> Architecture:
    """Return ``architecture`` with the epochs that make up about ``steps`` on a training split of ``images``."""
    epochs = _epochs(steps, architecture.training.batch_size, images)
    return dataclasses.replace(architecture, training=dataclasses.replace(architecture.training, epochs=epochs))


def polishing_round(used: float) -> int:
    """Return the round of polishing, from 0, of a search that has used the share ``used`` of its budget."""
    progress = (used - REFINE.until) / (1.0 - REFINE.until)
    return min(max(0, int(len(ROUND_LENGTHS) * progress)), len(ROUND_LENGTHS) - 1)


def polishing_steps(used: float, seconds: float, step_seconds: float) -> float:
    """Return for how many steps to polish a network whose step takes ``step_seconds``.

    The search has used the share ``used`` of its ``seconds``; what is left of these is not exceeded, unless it is too short for
    any training that Ω holds.
    """
    length = ROUND_LENGTHS[polishing_round(used)] * (1.0 - REFINE.until) * seconds
    steps = min(max(length / step_seconds, POLISH.steps), LONGEST_POLISHING)
    return max(FEWEST_STEPS, min(steps, TIME_MARGIN * (1.0 - used) * seconds / step_seconds))


def polished(architecture: Architecture, steps: float, images: int) -> Architecture:
    """Return ``architecture`` with the settings with which it is polished for about ``steps``.

    Augmentation stays as it was when the network did well: one too small to learn its images by heart is only hindered by it.
    """
    polishing = dataclasses.replace(
        architecture.training,
        optimiser="adam",
        schedule="cosine",
        learning_rate=POLISHING_RATE,
        batch_size=POLISHING_BATCH,
        weight_decay=0.0,  # soft labels are what keeps it from learning the images by heart
        dropout=0.0,
    )
    return trained_for(dataclasses.replace(architecture, training=polishing), steps, images)


def images_seen(architecture: Architecture, images: int) -> int:
    """Return how many images ``architecture`` sees in its training on ``images``, each counted as often as it comes."""
    return architecture.training.epochs * min(images, EPOCH_IMAGES)


def steps_of(architecture: Architecture, images: int) -> float:
    """Return for how many steps ``architecture`` trains on ``images``."""
    return images_seen(architecture, images) / architecture.training.batch_size


def with_stages(limits: SpaceLimits, images: int) -> SpaceLimits:
    """Return ``limits`` with the range of epochs that the stages set on a training split of ``images``."""
    training = limits.training
    fewest = _epochs(FEWEST_STEPS, training.batch_sizes[0], images)
    most = max(_epochs(REFINE.steps, training.batch_sizes[-1], images), _epochs(LONGEST_POLISHING, POLISHING_BATCH, images))
    return dataclasses.replace(limits, training=dataclasses.replace(training, epochs=(fewest, most)))


def _epochs(steps: float, batch_size: int, images: int) -> int:
    return max(FEWEST_EPOCHS, round(steps * batch_size / min(images, EPOCH_IMAGES)))
