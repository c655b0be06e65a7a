"""What `digits` can be told apart with otherwise: logistic regression, a random forest, and random search in the same Ω.

Each classical model is fitted on the training split for every setting in its grid, chosen on the validation split, of equal ones
the smallest, and tested once. Sizes are what a plain float32 program stores, and nothing else: no code, no working memory.

    logistic regression   4 bytes per coefficient and intercept
    forest                16 bytes per split (feature, threshold, two children) and 4 bytes per class and leaf (probabilities)

The networks have 8-bit numbers. So could a forest: with byte thresholds and probabilities and the left child next in memory,
a split takes 4 bytes and a leaf of ten classes 10, a quarter of what is counted here.

The networks are for an arduino-uno with 1 KB of RAM and 8 KB of flash, as in `make demo`; their bytes are flash, code included.
Random search and the search have the same Ω, the same number of trials and the same evaluation. Random search draws uniformly
from what can fit by the same bounds, and trains for as many epochs as it draws; either way the most accurate network on the
validation split within the budget is tested once.

    python benchmarks/baselines_digits.py [--seed 0] [--trials 40] [--json]
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from sparse_mcu.data import Dataset, Split, load
from sparse_mcu.deploy.boards import board
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.search import Budget, Candidate, Evaluation, Ledger, SearchOptions, evaluate, search
from sparse_mcu.search.evaluation import error
from sparse_mcu.search.feasibility import Feasibility
from sparse_mcu.search.loop import TEACHER_STEPS_PER_TRIAL
from sparse_mcu.search.stages import with_stages
from sparse_mcu.search.teaching import Lesson, teach
from sparse_mcu.search.workers import TrainingData
from sparse_mcu.space.limits import SpaceLimits
from sparse_mcu.space.suggest import sample

INVERSE_REGULARISATIONS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
TREES = (1, 2, 3, 5, 8, 12, 20, 50, 100, 300)
DEPTHS = (3, 4, 5, 6, 8, 10, None)
FLASH_BYTES = 8192  # what the networks of `make demo` may take
BOARD, BUDGET = board("arduino-uno"), Budget(ram_bytes=1024, flash_bytes=FLASH_BYTES)
FLOAT_BYTES = 4
SPLIT_BYTES = 16  # int32 feature, float32 threshold, two int32 children


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a model with the setting that was chosen for it."""

    model: str
    setting: str
    validation_accuracy: float
    test_accuracy: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Fitted:
    """One setting of a grid, fitted on the training split."""

    setting: str
    classifier: ClassifierMixin
    size_bytes: int
    validation_accuracy: float


def scikit_learn_rows(dataset: Dataset, seed: int) -> list[Row]:
    """Return logistic regression, the best forest of any size, and the best forest within FLASH_BYTES."""
    forests = list(random_forests(dataset, seed))
    within = [forest for forest in forests if forest.size_bytes <= FLASH_BYTES]
    return [
        choose("logistic regression", logistic_regressions(dataset), dataset),
        choose("random forest", forests, dataset),
        choose(f"forest <= {FLASH_BYTES} B", within, dataset),
    ]


def choose(model: str, candidates: Iterable[Fitted], dataset: Dataset) -> Row:
    """Return the candidate that is best on the validation split, tested."""
    best = max(candidates, key=lambda fitted: (fitted.validation_accuracy, -fitted.size_bytes))
    tested = accuracy(best.classifier, dataset.test)
    return Row(model, best.setting, best.validation_accuracy, tested, best.size_bytes)


def logistic_regressions(dataset: Dataset) -> Iterator[Fitted]:
    for inverse in INVERSE_REGULARISATIONS:
        classifier = LogisticRegression(C=inverse, max_iter=5000)
        classifier.fit(features(dataset.train), dataset.train.labels)
        size_bytes = FLOAT_BYTES * (classifier.coef_.size + classifier.intercept_.size)
        yield Fitted(f"C={inverse}", classifier, size_bytes, accuracy(classifier, dataset.validation))


def random_forests(dataset: Dataset, seed: int) -> Iterator[Fitted]:
    for trees, depth in product(TREES, DEPTHS):
        classifier = RandomForestClassifier(n_estimators=trees, max_depth=depth, random_state=seed)
        classifier.fit(features(dataset.train), dataset.train.labels)
        yield Fitted(
            f"{trees} trees, depth {depth or 'any'}",
            classifier,
            forest_bytes(classifier),
            accuracy(classifier, dataset.validation),
        )


def forest_bytes(forest: RandomForestClassifier) -> int:
    trees = [estimator.tree_ for estimator in forest.estimators_]
    leaves = sum(tree.n_leaves for tree in trees)
    splits = sum(tree.node_count for tree in trees) - leaves
    return int(SPLIT_BYTES * splits + FLOAT_BYTES * forest.n_classes_ * leaves)


def network_rows(dataset: Dataset, seed: int, trials: int) -> list[Row]:
    """Return the best network that random search finds, and the best that the search finds."""
    return [random_search(dataset, seed, trials), guided_search(dataset, seed, trials)]


def random_search(dataset: Dataset, seed: int, trials: int) -> Row:
    limits = SpaceLimits.for_input(dataset.input_shape, dataset.classes, BUDGET.ram_bytes, BUDGET.flash_bytes)
    limits = with_stages(limits, len(dataset.train))
    data = TrainingData(dataset.train, dataset.validation)
    teacher = teach(Lesson(dataset.classes, threads=1, steps=TEACHER_STEPS_PER_TRIAL * trials), data, "cpu", None)
    rng = np.random.default_rng(seed)
    evaluations: list[Evaluation] = []
    while len(evaluations) < trials:
        architecture = sample(limits, rng)
        if Feasibility(BOARD, BUDGET).shortfall(architecture) is None:
            candidate = Candidate(architecture, BOARD, seed=len(evaluations), teacher=teacher)
            evaluations.append(evaluate(candidate, data, "cpu", None))
    within = [evaluation for evaluation in evaluations if BUDGET.keeps(evaluation.objectives)]
    best = min(within, key=lambda evaluation: (evaluation.objectives["error"], evaluation.objectives["flash_bytes"]))
    return network_row("random search", trials, best.graph, best.objectives, dataset)


def guided_search(dataset: Dataset, seed: int, trials: int) -> Row:
    options = SearchOptions(BOARD, BUDGET, trials=trials, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as directory, Ledger.create(Path(directory)) as ledger:
        search(dataset, options, ledger, lambda progress: None)
        best = ledger.best(BUDGET)
        assert best is not None, "no network fits"
        return network_row("sparse-mcu", trials, ledger.graph(best.number), best.objectives, dataset)


def network_row(model: str, trials: int, graph: IntegerGraph, objectives: Mapping[str, float], dataset: Dataset) -> Row:
    setting = f"{trials} trials, {int(objectives['ram_bytes'])} B RAM"
    tested = 1.0 - error(graph, dataset.test)
    return Row(model, setting, 1.0 - objectives["error"], tested, int(objectives["flash_bytes"]))


def accuracy(classifier: ClassifierMixin, split: Split) -> float:
    return float(np.mean(classifier.predict(features(split)) == split.labels))


def features(split: Split) -> np.ndarray:
    """Return the pixels as (N, C*H*W) in [0, 1]."""
    return split.images.reshape(len(split), -1) / 255


def show(rows: list[Row]) -> None:
    table = Table("model", "setting", "validation", "test", "bytes", box=SIMPLE)
    for row in rows:
        table.add_row(row.model, row.setting, f"{row.validation_accuracy:.2%}", f"{row.test_accuracy:.2%}", f"{row.size_bytes:,}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description="What digits can be told apart with otherwise.")
    parser.add_argument("--seed", type=int, default=0, help="of the forests and of the searches")
    parser.add_argument("--trials", type=int, default=40, help="of each search")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    dataset = load("digits")
    rows = scikit_learn_rows(dataset, arguments.seed) + network_rows(dataset, arguments.seed, arguments.trials)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
