"""Training the teacher of a search: once, before its candidates, on all of the workers' threads."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from sparse_mcu.nn.teacher import Effort, affordable, keeps_classes_mirrored, logits, teacher
from sparse_mcu.nn.train import Images, accuracy
from sparse_mcu.search.candidate import Teacher
from sparse_mcu.search.threads import threads
from sparse_mcu.search.workers import TrainingData


@dataclass(frozen=True, slots=True)
class Lesson:
    """How a teacher is trained: for a number of steps, or for as many as ``seconds`` allow."""

    classes: int
    threads: int
    steps: int | None = None
    seconds: float | None = None


def teach(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """Train a teacher, until ``deadline`` (time.monotonic) at the latest; where there is no time for one, it knows nothing.

    Raises TrainingError where the training diverges.
    """
    images, labels = data.train.images, data.train.labels
    if lesson.seconds is not None:
        deadline = min(math.inf if deadline is None else deadline, time.monotonic() + lesson.seconds)
    held_out = Images.on(torch.device(device), data.validation.images, data.validation.labels)

    def effort() -> Effort:
        if lesson.steps is not None:
            return Effort.of(lesson.steps)
        assert deadline is not None
        return affordable(images, labels, lesson.classes, deadline - time.monotonic(), device)

    with threads(lesson.threads):
        plan = effort()
        if plan.steps == 0:
            return Teacher(0.0, np.zeros((len(images), lesson.classes), dtype=np.float32))
        mirrored = False
        if plan.is_long:
            mirrored = keeps_classes_mirrored(images, labels, held_out, lesson.classes, device)
            plan = effort()  # finding that out has taken time
        network = teacher(images, labels, lesson.classes, plan, device, deadline, mirrored=mirrored)
        return Teacher(accuracy(network, held_out), logits(network, images), mirrored)
