"""Training the teacher of a search: once, before its candidates, on all of the workers' threads."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from sparse_mcu.nn.teacher import affordable_steps, logits, teacher
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
    with threads(lesson.threads):
        steps = lesson.steps
        if steps is None:
            assert deadline is not None
            steps = affordable_steps(images, labels, lesson.classes, deadline - time.monotonic(), device)
        if steps == 0:
            return Teacher(0.0, np.zeros((len(images), lesson.classes), dtype=np.float32))
        network = teacher(images, labels, lesson.classes, steps, device, deadline)
        held_out = Images.on(torch.device(device), data.validation.images, data.validation.labels)
        return Teacher(accuracy(network, held_out), logits(network, images))
