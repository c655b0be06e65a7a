"""A search that trains nothing: it writes trials with known figures into the ledger."""

from pathlib import Path

import numpy as np
import pytest

from sparse_mcu import run as runs
from sparse_mcu.data import Dataset
from sparse_mcu.quant.random_graph import random_graph
from sparse_mcu.run import Run
from sparse_mcu.search.candidate import Evaluation
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.loop import Ending, Observer
from sparse_mcu.search.objectives import UNITS
from sparse_mcu.search.options import Progress, SearchOptions
from sparse_mcu.space.limits import SpaceLimits

# (error, flash bytes, RAM bytes): trial 1 is dominated by trial 0, trial 3 is beyond the budget of 1024 bytes of RAM.
FIGURES = ((0.10, 4000, 800), (0.20, 4100, 900), (0.30, 2000, 400), (0.05, 9000, 1500))


def evaluation(error: float, flash_bytes: float, ram_bytes: float) -> Evaluation:
    """Return an evaluation with these objectives, 16000 cycles, and a graph of its own."""
    objectives = dict.fromkeys(UNITS, 1.0) | {
        "error": error,
        "flash_bytes": flash_bytes,
        "ram_bytes": ram_bytes,
        "cycles": 16000.0,
    }
    graph = random_graph(np.random.default_rng(int(flash_bytes)))
    return Evaluation(objectives, graph, {"weight": np.ones(2, np.float32)}, {"epochs": []})


def search_nothing(dataset: Dataset, options: SearchOptions, ledger: Ledger, observer: Observer) -> Ending:
    """Complete a trial for each of FIGURES; fail one more."""
    limits = SpaceLimits.for_input(dataset.input_shape, dataset.classes, options.budget.ram_bytes, options.budget.flash_bytes)
    for figures in FIGURES:
        ledger.complete(ledger.ask(limits).number, evaluation(*figures), seconds=0.5)
    ledger.fail(ledger.ask(limits).number, "it diverged", seconds=0.1)
    observer(Progress("refine", 1.0, len(FIGURES), 1, 0, 0, None, 0.5, 0.9))
    return "finished"


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every search of these tests be the stand-in."""
    monkeypatch.setattr("sparse_mcu.search.loop.search", search_nothing)


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    """A run on digits with FIGURES as its trials."""
    return runs.search("digits", board="arduino-uno", ram="1K", flash="8K", trials=5, workers=1, out=tmp_path / "run")
