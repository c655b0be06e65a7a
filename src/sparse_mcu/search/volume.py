"""How much a search has found: the share of a box of objectives that its front dominates.

The box reaches from nothing to the error of a guess and to the budget. Costs without a limit end where the limits of Ω make
them: the weights before pruning, each used at every pixel, each time for CYCLES_PER_MAC.
"""

import math
from collections.abc import Mapping

import numpy as np

from sparse_mcu.search.objectives import Goal
from sparse_mcu.search.pareto import hypervolume, non_dominated
from sparse_mcu.space.limits import SpaceLimits

CYCLES_PER_MAC = 32  # on the slowest of the cores


class Volume:
    """The share of the box that the trials added so far dominate."""

    def __init__(self, goal: Goal, limits: SpaceLimits) -> None:
        macs = float(limits.max_weights * math.prod(limits.input_shape[1:]))
        ends = {
            "error": 1.0 - 1.0 / limits.classes,
            "model_size": float(limits.max_weights),
            "working_memory_2": float(limits.max_activation_bytes),
            "macs": macs,
            "cycles": CYCLES_PER_MAC * macs,
            **goal.budget.limits,
        }
        self._goal = goal
        self._ends = np.array([ends[name] for name in goal.minimised])
        self._front = np.empty((0, len(goal.minimised)))  # in shares of the ends
        self.share = 0.0

    def add(self, objectives: Mapping[str, float]) -> None:
        """Take in what a trial measured."""
        if not self._goal.budget.keeps(objectives):
            return
        row = np.array([objectives[name] for name in self._goal.minimised]) / self._ends
        if (self._front <= row).all(axis=1).any():
            return
        front = np.vstack([self._front, row])
        self._front = front[non_dominated(front)]
        self.share = hypervolume(self._front, np.ones(len(row)))
