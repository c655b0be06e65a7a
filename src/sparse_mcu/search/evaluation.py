"""Evaluating one candidate: train with pruning inside, quantise, measure. Knows no study, database or worker.

f1 is the error of the integer network on the validation split, as its reference interpreter runs it. The test split is never
here.
"""

import dataclasses

import numpy as np

from sparse_mcu.cost import cost
from sparse_mcu.data.dataset import Split
from sparse_mcu.nn.compact import compact
from sparse_mcu.nn.inherit import inherit
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import train
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.interpreter import run
from sparse_mcu.quant.quantise import quantise
from sparse_mcu.search.candidate import Candidate, Evaluation
from sparse_mcu.search.threads import single_thread
from sparse_mcu.search.workers import TrainingData


def evaluate(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Train ``candidate`` on ``device``, until ``deadline`` (time.monotonic) at the latest, and measure what it became.

    On a CPU the same candidate and data give the same evaluation. Raises TrainingError where the training diverges.
    """
    network = Network(candidate.architecture, candidate.seed)
    if candidate.parent is not None:
        inherit(network, candidate.parent.architecture, candidate.parent.weights)
    train_split = data.train
    with single_thread():
        log = train(network, train_split.images, train_split.labels, seed=candidate.seed, device=device, deadline=deadline)
        folded = compact(network.fold())
    graph = quantise(folded, train_split.images)
    objectives = {"error": error(graph, data.validation), **dataclasses.asdict(cost(graph, candidate.board))}
    return Evaluation(objectives, graph, network.weights(), {"training": dataclasses.asdict(log)})


def error(graph: IntegerGraph, split: Split) -> float:
    """Return the share of the images of ``split`` that ``graph`` gets wrong."""
    return float(np.mean(run(graph, split.images).argmax(axis=1) != split.labels))
