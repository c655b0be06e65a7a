"""Draws the Pareto front of a run: the picture in the README.

Usage: python tools/draw_front.py runs/demo docs/front.svg
"""

import sys
from pathlib import Path

import matplotlib

from sparse_mcu.run import Run
from sparse_mcu.search.ledger import Ledger

matplotlib.use("agg")  # draws without a screen
matplotlib.rcParams["svg.fonttype"] = "none"
matplotlib.rcParams["svg.hashsalt"] = "sparse-mcu"  # the same run gives the same file

import matplotlib.pyplot as plt  # noqa: E402  # after the choice of what draws

GREY, BLUE = "#b8bcc4", "#2457a8"
LOWEST_ERROR = 0.2  # percent: where a network without any error is drawn, for there is no zero on a logarithmic scale


def draw(run: Run, path: Path) -> None:
    """Draw every complete trial of ``run`` within its budget: validation error over flash, and over RAM."""
    with Ledger.open(run.path) as ledger:
        trials = [trial for trial in ledger.records() if trial.state == "complete" and run.budget.keeps(trial.objectives)]
        front = ledger.front(run.budget)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, name, title in zip(axes, ("flash_bytes", "ram_bytes"), ("flash, bytes", "RAM, bytes"), strict=True):
        for shown, colour, size, label in ((trials, GREY, 14, "every network"), (front, BLUE, 26, "on the front of all three")):
            errors = [max(100 * trial.objectives["error"], LOWEST_ERROR) for trial in shown]
            axis.scatter([trial.objectives[name] for trial in shown], errors, s=size, c=colour, label=label)
        axis.set_xlabel(title)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].set_yscale("log")
    axes[0].set_yticks([0.5, 1, 2, 5, 10, 20, 50, 90], [f"{error:g} %" for error in (0.5, 1, 2, 5, 10, 20, 50, 90)])
    axes[0].minorticks_off()
    axes[0].set_ylabel("validation error")
    axes[1].legend(frameon=False, loc="upper right")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    draw(Run.load(sys.argv[1]), Path(sys.argv[2]))
