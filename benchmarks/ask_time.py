"""How long one ask takes as trials finish: the ledger's SQLite file and our sampler, as in a search.

    cd benchmarks && python ask_time.py --seed 0

For each number of finished trials (random points of Ω and morphs of them, with the objectives that omega_bench predicts) the
median of several asks, and the longest; the ask before them also reads all trials and fits the hyperparameters anew. Seconds are
of the process on one thread, so that other work on the machine does not count.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import torch

from omega_bench.problem import BOARD, BUDGET, GOAL, IMAGES, LIMITS, read_points, standard
from omega_bench.surrogate import Surrogate
from sparse_mcu.search import records
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.sampler import SparseSampler
from sparse_mcu.search.stages import EXPLORE
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.morph import MORPHS, morph
from sparse_mcu.space.suggest import sample

SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
ASKS = 9
USED = 0.4  # of the budget: the stage whose pool takes longest
FIGURE = Path(__file__).parent / "figures" / "ask_time.png"


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    surrogate = Surrogate(read_points())
    architectures = _architectures(np.random.default_rng(options.seed))
    medians: list[float] = []
    with tempfile.TemporaryDirectory() as directory, Ledger.create(Path(directory)) as ledger:
        for before, size in itertools.pairwise((0, *SIZES)):
            for architecture in itertools.islice(architectures, size - before):
                _add(ledger, architecture, surrogate)
            feasibility = Feasibility(BOARD, BUDGET)
            ledger.study.sampler = SparseSampler(LIMITS, GOAL, IMAGES, options.seed, lambda: USED, feasibility.shortfall)
            first = _seconds(ledger)  # reads all trials, as a search does once, and fits
            seconds = [_seconds(ledger) for _ in range(ASKS)]
            medians.append(float(np.median(seconds)))
            print(
                f"{size} finished trials: {medians[-1]:.2f} s, at most {max(seconds):.2f} s, with a fit {first:.2f} s", flush=True
            )
    _draw(medians)


def _architectures(rng: np.random.Generator) -> Iterator[Architecture]:
    """Yield ever new points of Ω, most of them morphs of others."""
    parents: list[Architecture] = []
    while True:
        parent = parents[rng.integers(len(parents))] if len(parents) > 50 and rng.random() < 0.7 else None
        drawn = sample(LIMITS, rng) if parent is None else morph(parent, LIMITS, rng, MORPHS)[1]
        parents.append(standard(drawn))
        yield parents[-1]


def _add(ledger: Ledger, architecture: Architecture, surrogate: Surrogate) -> None:
    """Put a complete trial into the study, without its parameters: our sampler reads the architecture."""
    F = surrogate(architecture).tolist()
    attributes = {
        records.ARCHITECTURE: architecture.to_json(),
        records.OBJECTIVES: dict(zip(GOAL.minimised, F, strict=True)),
        records.STAGE: EXPLORE.name,
    }
    ledger.study.add_trial(optuna.trial.create_trial(values=F, user_attrs=attributes))


def _seconds(ledger: Ledger) -> float:
    start = time.process_time()
    ledger.ask(LIMITS)
    return time.process_time() - start


def _draw(medians: list[float]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.loglog(SIZES, medians, marker="o", label="median ask")
    axes.loglog((200, 1000, 5000), (0.5, 2.0, 6.0), "x", color="grey", label="allowed")
    axes.set(xlabel="finished trials", ylabel="CPU seconds")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
