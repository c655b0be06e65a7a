"""Evaluating one candidate: train with pruning inside, quantise, measure. Knows no study, database or worker.

f1 is the error of the integer network on the validation split, as its reference interpreter runs it. The test split is never
here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from sparse_mcu.cost import cost
from sparse_mcu.data.dataset import Split, UInt8Array
from sparse_mcu.nn.folded import Float32Array
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.reconstruct import begin_as
from sparse_mcu.nn.train import Images, accuracy, train
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.candidate import Candidate, Evaluation, Parent, Teacher
from sparse_mcu.search.rungs import SHARES
from sparse_mcu.search.threads import threads
from sparse_mcu.search.workers import TrainingData

RUNG_IMAGES = 1024  # of the validation split, which is shuffled: enough to tell who is far behind


def evaluate(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Train ``candidate`` on ``device``, until ``deadline`` (time.monotonic) at the latest, and measure what it became.

    On a CPU the same candidate and data give the same evaluation. Raises TrainingError where the training diverges.
    """
    network = Network(candidate.architecture, candidate.seed)
    images, labels = data.train.images, data.train.labels

    def integer_graph() -> IntegerGraph:
        return quantise(network.fold(), images)

    def objectives(graph: IntegerGraph, split: Split) -> dict[str, float]:
        return {"error": error(graph, split), **dataclasses.asdict(cost(graph, candidate.board, candidate.ram_bytes))}

    few = Split(data.validation.images[:RUNG_IMAGES], data.validation.labels[:RUNG_IMAGES])
    watch = _Watch(candidate, lambda: objectives(integer_graph(), few))
    with threads(1):
        inherited = candidate.parent is not None and _begin_as(network, candidate.parent, images, candidate.seed)
        soft = _soft_labels(network, candidate.teacher, data, device)
        log = train(
            network,
            images,
            labels,
            seed=candidate.seed,
            device=device,
            deadline=deadline,
            hopeless=watch,
            pruned=candidate.polish,
            inherited=inherited,
            teacher=soft,
            mirrored=candidate.teacher is not None and candidate.teacher.mirrored,
        )
        graph = integer_graph()
    notes = {"training": dataclasses.asdict(log)}
    return Evaluation(objectives(graph, data.validation), graph, network.weights(), notes, tuple(watch.measured), watch.stopped)


def _begin_as(network: Network, origin: Parent, images: UInt8Array, seed: int) -> bool:
    """Give ``network`` what its parent has learnt; say whether that was of use."""
    parent = Network(origin.architecture, seed)
    parent.load(origin.weights)
    return begin_as(network, parent, images, seed)


def _soft_labels(network: Network, teacher: Teacher | None, data: TrainingData, device: str) -> Float32Array | None:
    """Return the teacher's logits for the training images; None where it knows less than ``network`` does already."""
    if teacher is None:
        return None
    held_out = Images.on(torch.device(device), data.validation.images, data.validation.labels)
    return teacher.logits if teacher.accuracy >= accuracy(network.to(device), held_out) else None


class _Watch:
    """Measures a network at the rungs of its training, and says there whether to go on."""

    def __init__(self, candidate: Candidate, measure: Callable[[], Mapping[str, float]]) -> None:
        self._rungs = candidate.rungs
        self._measure = measure
        epochs = candidate.architecture.training.epochs
        self._due = [] if self._rungs is None else [math.ceil(share * epochs) for share in SHARES]
        self.measured: list[Mapping[str, float]] = []
        self.stopped = False

    def __call__(self, epochs: int) -> bool:
        """Say whether the training is hopeless after ``epochs``."""
        while len(self.measured) < len(self._due) and self._due[len(self.measured)] <= epochs and not self.stopped:
            assert self._rungs is not None
            self.measured.append(self._measure())
            self.stopped = self._rungs.hopeless(len(self.measured) - 1, self.measured[-1])
        return self.stopped


def error(graph: IntegerGraph, split: Split) -> float:
    """Return the share of the images of ``split`` that ``graph`` gets wrong."""
    return float(np.mean(run(graph, split.images).argmax(axis=1) != split.labels))
