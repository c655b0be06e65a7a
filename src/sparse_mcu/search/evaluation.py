"""Evaluating one candidate: train with pruning inside, quantise, measure. Knows no study, database or worker.

f1 is the error of the integer network on the validation split, as its reference interpreter runs it. The test split is never
here.
"""

import dataclasses
from typing import Any

import numpy as np

from sparse_mcu.cost import cost
from sparse_mcu.data.dataset import Split
from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.inherit import inherit
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import TrainingLog, train
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.candidate import Candidate, Evaluation
from sparse_mcu.search.workers import TrainingData


def evaluate(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Train ``candidate`` on ``device``, until ``deadline`` (time.monotonic) at the latest, and measure what it became.

    The same candidate and data give the same evaluation on a CPU with one thread. Raises TrainingError where the training
    diverges.
    """
    network = Network(candidate.architecture, candidate.seed)
    if candidate.parent is not None:
        inherit(network, candidate.parent.architecture, candidate.parent.weights)
    training_log = train(network, data.train.images, data.train.labels, seed=candidate.seed, device=device, deadline=deadline)
    graph = quantise(compact(network.fold()), data.train.images)
    objectives = {"error": error(graph, data.validation), **dataclasses.asdict(cost(graph, candidate.board))}
    return Evaluation(objectives, graph, network.weights(), _log(training_log))


def error(graph: IntegerGraph, split: Split) -> float:
    """Return the share of the images of ``split`` that ``graph`` gets wrong."""
    return float(np.mean(run(graph, split.images).argmax(axis=1) != split.labels))


def _log(training: TrainingLog) -> dict[str, Any]:
    return {"training": dataclasses.asdict(training)}
