"""Stand-ins for training: objectives that follow from the architecture at once, and evaluations that misbehave."""

import dataclasses
import math
import os
import signal
import time

import numpy as np

from sparse_mcu.data.dataset import Dataset, Split
from sparse_mcu.errors import TrainingError
from sparse_mcu.quant.graph import Conv2d, IntegerGraph, TensorType
from sparse_mcu.search.candidate import Candidate, Evaluation, Teacher
from sparse_mcu.search.stages import with_stages
from sparse_mcu.search.teaching import Lesson
from sparse_mcu.search.workers import TrainingData
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.layers import layers
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.memory import peak_activations

RAM_BYTES, FLASH_BYTES = 1024, 8192
IMAGES = 1000  # of the training split that stages reckon with
LIMITS = with_stages(SpaceLimits.for_input((1, 8, 8), 10, RAM_BYTES, FLASH_BYTES), IMAGES)


def objectives(architecture: Architecture) -> dict[str, float]:
    """A smooth trade-off: more weights and epochs err less, a good learning rate and batch norm help, all bytes cost."""
    network = layers(architecture)
    training = architecture.training
    weights = sum(layer.weights for layer in network)
    kept = weights / (1.0 + 3.0 * training.pruning.strength)
    error = 0.01 + 0.9 * math.exp(-(kept**0.3) / 4.0) + 0.05 * math.log10(training.learning_rate / 0.01) ** 2
    error += 0.3 / training.epochs + 0.02 * sum(not conv.batch_norm for block in architecture.blocks for conv in block.convs)
    return {
        "error": min(error, 0.9),
        "flash_bytes": float(1800 + 60 * len(network) + round(kept)),
        "ram_bytes": float(100 + peak_activations(network).bytes),
    }


def evaluation(candidate: Candidate) -> Evaluation:
    """An evaluation whose artefacts tell which candidate it was."""
    weights = {"seed": np.array([candidate.seed % 1000], dtype=np.float32)}
    return Evaluation(objectives(candidate.architecture), graph(), weights, {"inherited": candidate.parent is not None})


def graph() -> IntegerGraph:
    """Two classes told apart by one pixel."""
    op = Conv2d(
        "logits",
        ("input",),
        weights=np.array([[[[1]]], [[[-1]]]], dtype=np.int8),
        bias=np.zeros(2, dtype=np.int32),
        multiplier=np.ones(2, dtype=np.int32),
        shift=np.zeros(2, dtype=np.int32),
    )
    return IntegerGraph(
        (op,), {"input": TensorType((1, 1, 1), "uint8", 1 / 255), "logits": TensorType((1, 1, 2), "int16", 1 / 255)}
    )


def dataset() -> Dataset:
    """Random images of ten classes."""
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        return Split(rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8), rng.integers(0, 10, n))

    return Dataset("fake", tuple("0123456789"), split(IMAGES), split(20), split(20), "search_fakes")


def evaluate_at_once(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Evaluate without training."""
    return evaluation(candidate)


def evaluate_slowly(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Take 0.2 seconds."""
    time.sleep(0.2)
    return evaluation(candidate)


def evaluate_everything(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Evaluate without training, and make up what else is measured."""
    measured = evaluation(candidate)
    network = layers(candidate.architecture)
    counts = {"model_size": sum(layer.weights for layer in network), "cycles": 30 * sum(layer.macs for layer in network)}
    return dataclasses.replace(measured, objectives={**measured.objectives, **counts})


def evaluate_hopelessly(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Reach the first rung with figures that all others beat, if there are others: then it ends there."""
    assert candidate.rungs is not None
    stopped = candidate.rungs.hopeless(0, {"error": 0.9, "flash_bytes": 1e6, "ram_bytes": 1e6})
    return dataclasses.replace(evaluation(candidate), rungs=(objectives(candidate.architecture),), stopped=stopped)


def evaluate_forever(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Never return."""
    while True:
        time.sleep(1.0)


def evaluate_odd_seeds_die(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Be killed, as by the kernel when memory is out, at every odd seed."""
    if candidate.seed % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluation(candidate)


def evaluate_odd_seeds_diverge(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Fail as training fails, at every odd seed."""
    if candidate.seed % 2:
        raise TrainingError("the loss of a network must be finite")
    return evaluation(candidate)


def evaluate_wrongly(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Fail by a fault of ours."""
    return [evaluation(candidate)][1]


def evaluate_data(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Return what the worker was given instead of a measurement."""
    seen = {
        "train": float(data.train.images.astype(np.int64).sum() + data.train.labels.sum()),
        "validation": float(data.validation.images.astype(np.int64).sum() + data.validation.labels.sum()),
        "deadline": -1.0 if deadline is None else deadline,
    }
    return Evaluation(seen, graph(), {}, {"device": device, "pid": os.getpid()})


def evaluate_taught(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Err as often as the teacher is right; half of the time without one."""
    measured = evaluation(candidate)
    accuracy = 0.5 if candidate.teacher is None else candidate.teacher.accuracy
    return dataclasses.replace(measured, objectives={**measured.objectives, "error": accuracy})


def teacher(accuracy: float | None) -> Teacher:
    """A teacher that says nothing."""
    assert accuracy is not None
    return Teacher(accuracy, np.zeros((IMAGES, 10), dtype=np.float32))


def teach_at_once(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """Return the length of the lesson, in thousands of steps or in seconds, as accuracy."""
    return teacher(lesson.seconds if lesson.steps is None else lesson.steps / 1000)


def teach_never(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """End the worker: for searches that must not ask for a teacher."""
    os._exit(1)


def teach_and_die(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """Be killed, as by the kernel when memory is out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def teach_wrongly(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """Fail by a fault of ours."""
    return [teacher(0.0)][1]


def teach_forever(lesson: Lesson, data: TrainingData, device: str, deadline: float | None) -> Teacher:
    """Never return."""
    while True:
        time.sleep(1.0)
