"""Draws the Pareto front of a run: the picture in the README.

Usage: python tools/draw_front.py runs/demo docs/front.svg
"""

import sys
from pathlib import Path

import matplotlib

from sparse_mcu.run import Run
from sparse_mcu.search.ledger import Ledger

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sparse-mcu"  # the same run gives the same file

import matplotlib.pyplot as plt  # noqa: E402  # after the choice of what draws

GREY, BLUE = "#b8bcc4", "#2457a8"


def draw(run: Run, path: Path) -> None:
    """Draw every complete trial of ``run`` within its budget: validation accuracy over flash, and over RAM."""
    with Ledger.open(run.path) as ledger:
        trials = [trial for trial in ledger.records() if trial.state == "complete" and run.budget.keeps(trial.objectives)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, name, title in zip(axes, ("flash_bytes", "ram_bytes"), ("flash, bytes", "RAM, bytes"), strict=True):
        axis.scatter(
            [t.objectives[name] for t in trials], [100 * t.accuracy for t in trials], s=14, c=GREY, label="every network"
        )
        front = [(model.trial.objectives[name], 100 * model.accuracy) for model in run.front]
        axis.scatter(*zip(*front, strict=True), s=26, c=BLUE, label="on the front of all three")
        axis.set_xlabel(title)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    lowest = min(100 * model.accuracy for model in run.front)
    axes[0].set_ylim(max(0.0, lowest - 3.0), 100.5)
    axes[0].set_ylabel("validation accuracy, %")
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Run.load(sys.argv[1]), Path(sys.argv[2]))
