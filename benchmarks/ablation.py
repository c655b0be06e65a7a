"""What pruning inside the search, the search itself, morphism and stages are worth: the same seconds for every arm, on MNIST.

    python benchmarks/ablation.py --data-dir DIR --seconds 900 --seeds 3 --results ablation.jsonl

    full           the method
    pruned-after   networks are searched without pruning; a quarter of the time prunes those of the front afterwards
    pruning-only   one good architecture, LeNet-like; only training and pruning are searched
    no-morphism    children are trained from scratch, for as many steps
    no-stages      all of the time explores, from scratch

DIR holds mnist.npz. Results are kept line by line, each with its front, and what is there is not measured again. Printed and
drawn are the hypervolume, as share of the box up to 5 % error and an Arduino Uno's RAM and flash, and the error of the best
network, both on the validation split; the test split is not looked at.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from sparse_mcu.data import Dataset, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.search import Budget, Candidate, Evaluation, Ledger, SearchOptions, evaluate, search, stages
from sparse_mcu.search.candidate import Parent
from sparse_mcu.search.pareto import hypervolume, non_dominated
from sparse_mcu.search.stages import EXPLORE, with_stages
from sparse_mcu.search.workers import TrainingData
from sparse_mcu.space.architecture import Pruning
from sparse_mcu.space.limits import SpaceLimits

BOARD = board("arduino-uno")
BUDGET = Budget(BOARD.ram_bytes, BOARD.flash_bytes)
BOX = {"error": 0.05, "flash_bytes": BOARD.flash_bytes, "ram_bytes": BOARD.ram_bytes}
ARMS = ("full", "pruned-after", "pruning-only", "no-morphism", "no-stages")
AFTER_SHARE = 0.25  # of the seconds, for pruning afterwards
AFTER = Pruning("unstructured", strength=1.0)
FIGURE = Path(__file__).parent / "figures" / "ablation.png"


def main() -> None:
    options = _options()
    dataset = load(options.data_dir / "mnist.npz")
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    for seed in range(options.seeds):
        for arm in ARMS:
            if any((row["arm"], row["seed"], row["seconds"]) == (arm, seed, options.seconds) for row in rows):
                continue
            rows.append({"arm": arm, "seed": seed, "seconds": options.seconds} | measure(arm, dataset, seed, options.seconds))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(json.dumps(rows[-1]), flush=True)
    _report(rows)


def measure(arm: str, dataset: Dataset, seed: int, seconds: float) -> dict[str, Any]:
    """Search with ``arm`` and return the front of what it found within the budget."""
    limits = arm_limits(arm, dataset)
    searching = (1.0 - AFTER_SHARE) * seconds if arm == "pruned-after" else seconds
    options = SearchOptions(BOARD, BUDGET, seconds=searching, seed=seed, workers=2, device="cpu")
    with tempfile.TemporaryDirectory() as directory, Ledger.create(Path(directory)) as ledger, _only_explores(arm):
        ledger.limits = limits
        search(dataset, options, ledger, lambda progress: None, from_scratch if arm == "no-morphism" else evaluate)
        found = [record.objectives for record in ledger.records() if record.state == "complete"]
        if arm == "pruned-after":
            found += list(_pruned(ledger, dataset, time.monotonic() + AFTER_SHARE * seconds))
    within = np.array([[objectives[name] for name in BOX] for objectives in found if BUDGET.keeps(objectives)])
    front = within.reshape(-1, len(BOX))
    return {"front": front[non_dominated(front)].tolist(), "trials": len(found)}


def arm_limits(arm: str, dataset: Dataset) -> SpaceLimits:
    """Return the space that ``arm`` searches."""
    limits = SpaceLimits.for_input(dataset.input_shape, dataset.classes, BUDGET.ram_bytes, BUDGET.flash_bytes)
    if arm == "pruned-after":
        limits = dataclasses.replace(limits, training=dataclasses.replace(limits.training, methods=("none",)))
    if arm == "pruning-only":
        limits = dataclasses.replace(
            limits,
            downsamples=(1, 2),
            blocks=(2,),
            convs=(1,),
            kinds=("regular",),
            kernels=(1, 3),
            channels=(8,),
            strides=(1,),
            paddings=("same",),
            batch_norms=(True,),
            pools=(1, 2),
            residuals=(False,),
            branches=(False,),
            heads=("flatten",),
            hidden=(0,),
        )
    return with_stages(limits, len(dataset.train))


def from_scratch(candidate: Candidate, data: TrainingData, device: str, deadline: float | None) -> Evaluation:
    """Evaluate without what the parent learnt."""
    return evaluate(dataclasses.replace(candidate, parent=None), data, device, deadline)


@contextmanager
def _only_explores(arm: str) -> Iterator[None]:
    """Make the first stage the only one for the arm without stages."""
    before = stages.STAGES
    if arm == "no-stages":
        stages.STAGES = (dataclasses.replace(EXPLORE, earliest=1.0, until=1.0),)
    try:
        yield
    finally:
        stages.STAGES = before


def _pruned(ledger: Ledger, dataset: Dataset, deadline: float) -> Iterator[dict[str, float]]:
    """Prune the networks that the search found, the most accurate first, while there is time."""
    data = TrainingData(dataset.train, dataset.validation)
    for record in ledger.front():
        if time.monotonic() >= deadline:
            return
        assert record.architecture is not None
        training = dataclasses.replace(record.architecture.training, pruning=AFTER)
        architecture = dataclasses.replace(record.architecture, training=training)
        parent = Parent(record.architecture, ledger.weights(record.number))
        candidate = Candidate(architecture, BOARD, record.number, parent, teacher=ledger.teacher)
        yield dict(evaluate(candidate, data, "cpu", deadline).objectives)


def _report(rows: list[dict[str, Any]]) -> None:
    print("| arm | seeds | hypervolume, median | of each seed | least error, median | of each seed | trials, median |")
    print("|---|---|---|---|---|---|---|")
    found = {arm: [row for row in rows if row["arm"] == arm] for arm in ARMS}
    volumes = {arm: [_volume(row) for row in found[arm]] for arm in ARMS}
    errors = {arm: [_least_error(row) for row in found[arm]] for arm in ARMS}
    for arm in ARMS:
        each = " ".join(f"{volume:.3f}" for volume in volumes[arm]), " ".join(f"{error:.2%}" for error in errors[arm])
        medians = np.median(volumes[arm]), np.median(errors[arm]), np.median([row["trials"] for row in found[arm]])
        print(f"| {arm} | {len(found[arm])} | {medians[0]:.3f} | {each[0]} | {medians[1]:.2%} | {each[1]} | {medians[2]:.0f} |")
    _draw(volumes, errors)


def _volume(row: dict[str, Any]) -> float:
    return hypervolume(np.array(row["front"]).reshape(-1, len(BOX)) / list(BOX.values()), np.ones(len(BOX)))


def _least_error(row: dict[str, Any]) -> float:
    return min((error for error, *_ in row["front"]), default=1.0)


def _draw(volumes: dict[str, list[float]], errors: dict[str, list[float]]) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
    for height, arm in enumerate(reversed(ARMS)):
        left.plot(volumes[arm], [height] * len(volumes[arm]), "o", color="C0")
        left.plot(np.median(volumes[arm]), height, "|", color="black", markersize=18)
        right.plot(100 * np.array(errors[arm]), [height] * len(errors[arm]), "o", color="C1")
        right.plot(100 * np.median(errors[arm]), height, "|", color="black", markersize=18)
    left.set_yticks(range(len(ARMS)), list(reversed(ARMS)))
    left.set_xlabel("hypervolume (more is better)")
    right.set_xlabel("least validation error, % (less is better)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(FIGURE, dpi=110)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds mnist.npz")
    parser.add_argument("--seconds", type=float, default=900.0, help="for each arm and seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("ablation.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
