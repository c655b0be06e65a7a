"""RQ3 and RQ4 of the paper, and what rounding to 8 bits costs, answered from finished runs of search.py.

    python benchmarks/paper/questions.py memory WITH WITHOUT    run directories of the rows mnist and mnist-size
    python benchmarks/paper/questions.py edges RUN...
    python benchmarks/paper/questions.py rounding RUN...

memory: what asking for small working memory changes in the front. edges: how far many edges mean many non-zero weights; an
edge is a weight of the network before pruning. rounding: the validation accuracy of the integer networks less that of the float
networks they were made from, in points, over the accurate part of the front. Figures lie beside this script; what they show is
printed as JSON.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from scipy.stats import spearmanr

from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import Images, accuracy
from sparse_mcu.run import Run
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.pareto import non_dominated
from sparse_mcu.search.records import TrialRecord
from sparse_mcu.space.layers import layers

HERE = Path(__file__).parent
MARGIN = 0.02  # of accuracy below the best: networks that anybody would want


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=["memory", "edges", "rounding"])
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    matplotlib.use("Agg")
    answers = {
        "memory": lambda: memory(*options.runs),
        "edges": lambda: edges(options.runs),
        "rounding": lambda: rounding(options.runs),
    }
    answer = answers[options.question]()
    print(json.dumps(answer, indent=1))


def memory(asked: Path, not_asked: Path) -> dict[str, Any]:
    """Compare the fronts of two searches that differ in whether working memory was an objective."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    answer = {}
    for name, path in (("asked for small working memory", asked), ("not asked", not_asked)):
        front = _front(_complete(path))
        found = [(trial.objectives["working_memory_2"], 100 * trial.accuracy) for trial in front]
        axes.plot(*np.array(sorted(found)).T, "o", label=name)
        answer[name] = {
            "front": len(front),
            "median_working_memory_2": float(np.median([trial.objectives["working_memory_2"] for trial in front])),
            "least_working_memory_2": min(trial.objectives["working_memory_2"] for trial in front),
            "median_model_size": float(np.median([trial.objectives["model_size"] for trial in front])),
            "first_layers": Counter(_first_layer(trial) for trial in front).most_common(4),
        }
    axes.set(xlabel="working memory (x + y), bytes", ylabel="validation accuracy, %")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(HERE / "memory.png", dpi=120)
    return answer


def edges(runs: list[Path]) -> dict[str, Any]:
    """Compare edges with non-zero weights over all complete trials of ``runs``."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    answer: dict[str, Any] = {}
    least, most = np.inf, 0.0
    for path in runs:
        trials = _complete(path)
        dense = np.array([sum(layer.weights for layer in layers(_architecture(trial))) for trial in trials])
        nonzero = np.array([trial.objectives["model_size"] for trial in trials])
        axes.scatter(dense, nonzero, s=8, label=path.name)
        least, most = min(least, float(dense.min())), max(most, float(dense.max()))
        worthy = np.array([trial.accuracy >= max(t.accuracy for t in trials) - MARGIN for trial in trials])
        answer[path.name] = {
            "trials": len(trials),
            "spearman": float(spearmanr(dense, nonzero).statistic),
            "share_of_edges_kept": [float(share) for share in np.quantile(nonzero / dense, (0.25, 0.5, 0.75))],
            "spearman_of_accurate_ones": float(spearmanr(dense[worthy], nonzero[worthy]).statistic),
            "accurate_ones": int(worthy.sum()),
        }
    axes.plot([least, most], [least, most], color="0.7", label="all kept")
    axes.set(xscale="log", yscale="log", xlabel="edges: weights before pruning", ylabel="non-zero weights")
    axes.legend()
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(HERE / "edges.png", dpi=120)
    return answer


def rounding(runs: list[Path]) -> dict[str, Any]:
    """Compare integer networks with the float ones behind them."""
    answer = {}
    for path in runs:
        run = Run.load(path)
        split = run.dataset().validation
        images = Images.on(torch.device("cpu"), split.images, split.labels)
        gains = []
        with Ledger.open(path) as ledger:
            for trial in _front(_complete(path)):
                network = Network(_architecture(trial), seed=0)
                network.load(ledger.weights(trial.number))
                gains.append(100 * (trial.accuracy - accuracy(network, images)))
        points = {"mean": np.mean(gains), "least": min(gains), "most": max(gains)}
        answer[path.name] = {"networks": len(gains), **{name: round(float(value), 3) for name, value in points.items()}}
    return answer


def _complete(path: Path) -> list[TrialRecord]:
    with Ledger.open(Run.load(path).path) as ledger:
        return [trial for trial in ledger.records() if trial.state == "complete"]


def _front(trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the accurate trials that no other beats in accuracy, model size and working memory."""
    best = max(trial.accuracy for trial in trials)
    accurate = [trial for trial in trials if trial.accuracy >= best - MARGIN]
    names = ("error", "model_size", "working_memory_2")
    outcomes = np.array([[trial.objectives[name] for name in names] for trial in accurate])
    return [trial for trial, on_front in zip(accurate, non_dominated(outcomes).tolist(), strict=True) if on_front]


def _first_layer(trial: TrialRecord) -> str:
    """Say what stands before the first convolution, and what that is."""
    architecture = _architecture(trial)
    conv = architecture.blocks[0].convs[0]
    window = (
        "" if architecture.downsample is None else f"{architecture.downsample.kind} pool {architecture.downsample.window[0]}, "
    )
    return f"{window}{conv.kind} {conv.kernel[0]}x{conv.kernel[1]}, stride {conv.stride[0]}"


def _architecture(trial: TrialRecord) -> Any:
    assert trial.architecture is not None
    return trial.architecture


if __name__ == "__main__":
    main()
