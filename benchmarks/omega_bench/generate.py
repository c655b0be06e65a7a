"""Make the table: train networks of Ω on digits one after the other, as ``problem`` says, and measure each at several epochs.

    cd benchmarks && python -m omega_bench.generate --points 2500 --seed 0 --work omega.jsonl

Some points are drawn from all of Ω, the others are morphs of what the points before them found, so that the table knows the
front. Point n follows from the seed and the points before it: what is killed goes on where it stopped. In the end the table is
packed.
"""

import argparse
import dataclasses
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np

from omega_bench.problem import BOARD, BUDGET, GOAL, LIMITS, SHARES, TABLE, Point, dataset, read_points, standard, trained, values
from sparse_mcu.cost import cost
from sparse_mcu.errors import TrainingError
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import Epoch, train
from sparse_mcu.quant.quantise import QuantisationError, quantise
from sparse_mcu.search.evaluation import error
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.scalarise import Region, preference
from sparse_mcu.search.threads import threads
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.morph import MORPHS, morph
from sparse_mcu.space.suggest import sample

RANDOM_FIRST = 500  # points drawn from all of Ω before any is a morph
RANDOM_SHARE = 0.3  # of the points after them
PARENTS = 8  # of the points that a random scalarisation prefers, one is the parent
MAX_MORPHS = 3
LARGEST_ERROR = 0.3  # of the networks whose morphs are of interest


def main() -> None:
    options = _options()
    points = read_points(options.work) if options.work.exists() else []
    start, begun = time.monotonic(), len(points)
    feasibility = Feasibility(BOARD, BUDGET)
    tried = {point.architecture for point in points}
    with threads(1), options.work.open("a", encoding="utf-8") as file:
        while len(points) < options.points:
            rng = np.random.default_rng((options.seed, len(points)))
            parent, architecture = _propose(points, rng)
            while architecture in tried or feasibility.shortfall(architecture) is not None:
                parent, architecture = _propose(points, rng)
            tried.add(architecture)
            points.append(_measured(len(points), parent, architecture, seed=int(rng.integers(2**31))))
            file.write(json.dumps(dataclasses.asdict(points[-1])) + "\n")
            file.flush()
            if len(points) % 50 == 0:
                each = (time.monotonic() - start) / (len(points) - begun)
                print(f"{len(points)} points, {each:.2f} s each, best {_least_error(points):.2%}", flush=True)
    with gzip.GzipFile(TABLE, "wb", mtime=0) as packed:
        packed.write(options.work.read_bytes())


def _propose(points: list[Point], rng: np.random.Generator) -> tuple[int | None, Architecture]:
    """Return a parent's number, or None, and a point of Ω."""
    if len(points) < RANDOM_FIRST or rng.random() < RANDOM_SHARE:
        return None, standard(sample(LIMITS, rng))
    F = np.array([[point.objectives[name] for name in GOAL.minimised] for point in points])
    upper = np.array([LARGEST_ERROR, BUDGET.flash_bytes, BUDGET.ram_bytes])
    region = Region(lower=F.min(axis=0), upper=upper, limited=np.array([True] * 3))
    weights = 1.0 / rng.uniform(0.02, 1.0, size=3)
    parent = points[rng.choice(preference(F, region, weights)[:PARENTS])]
    child = parent.architecture
    for _ in range(rng.integers(1, MAX_MORPHS + 1)):
        _, child = morph(child, LIMITS, rng, MORPHS)
    return parent.number, standard(child)


def _measured(number: int, parent: int | None, architecture: Architecture, seed: int) -> Point:
    """Train ``architecture`` and measure it after each of SHARES. One that diverges counts as guessing from there on."""
    start = time.monotonic()
    shortened, data = trained(architecture), dataset()
    network = Network(shortened, seed)
    epochs = shortened.training.epochs
    due = [math.ceil(share * epochs) for share in SHARES]
    curve: list[dict[str, float]] = []
    done = 0

    def measure() -> dict[str, float]:
        graph = quantise(network.fold(), data.train.images)
        return {"error": error(graph, data.validation), **dataclasses.asdict(cost(graph, BOARD))}

    def report(_: Epoch) -> None:
        nonlocal done
        done += 1
        if done in due[:-1]:
            curve.append(measure())

    try:
        train(network, data.train.images, data.train.labels, seed=seed, report=report)
        curve.append(measure())
    except (TrainingError, QuantisationError):
        network = Network(shortened, seed)
        guessing = {**measure(), "error": 1.0 - 1.0 / data.classes}
        curve += [guessing] * (len(SHARES) - len(curve))
    assert len(curve) == len(SHARES), (due, epochs)
    return Point(number, parent, values(architecture), tuple(curve), round(time.monotonic() - start, 3))


def _least_error(points: list[Point]) -> float:
    return min((point.objectives["error"] for point in points if BUDGET.keeps(point.objectives)), default=math.nan)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("omega.jsonl"), help="the table while it grows (default: omega.jsonl)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
