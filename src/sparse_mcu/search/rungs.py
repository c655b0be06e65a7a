"""Early stopping: a candidate that others were far ahead of when they had trained as long is not worth the rest of its training.

A rung is a share of a training's epochs at which the network is measured as if it ended there. n: finished trials of the same
stage, so that they trained as this one does; k: objectives, in the order of ``Goal.minimised``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparse_mcu.search.pareto import Float64Array, non_dominated

# Before half of its epochs pruning has hardly begun, and a network's bytes say little of what they will be.
SHARES = (0.5, 0.75)
# How far ahead: by this share of the candidate's error and this much on top; by this share of each of its costs. Errors fall
# and weights leave until the end of the training, and not as fast in one network as in another: benchmarks/early_stopping.py.
RELATIVE_ERROR_MARGIN, ERROR_MARGIN, COST_MARGIN = 0.4, 0.03, 0.1

Measured = Mapping[str, float]  # raw objectives by the names of UNITS


@dataclass(frozen=True, slots=True, eq=False)
class Rungs:
    """What finished trials measured at each of SHARES."""

    minimised: tuple[str, ...]
    rivals: tuple[Float64Array, ...]  # of each rung (n, k)

    @classmethod
    def of(cls, minimised: tuple[str, ...], finished: Iterable[Sequence[Measured]]) -> "Rungs":
        """Collect what ``finished`` trials measured at the rungs that they reached."""
        rows: list[list[list[float]]] = [[] for _ in SHARES]
        for measured in finished:
            for rung, objectives in enumerate(measured):
                rows[rung].append([objectives[name] for name in minimised])
        rivals = (np.array(row).reshape(-1, len(minimised)) for row in rows)
        return cls(minimised, tuple(rival[non_dominated(rival)] for rival in rivals))

    def hopeless(self, rung: int, objectives: Measured) -> bool:
        """Say whether a rival was ahead of a candidate with ``objectives`` at ``rung`` in everything, and by a margin."""
        aims = [_ahead(name, objectives[name]) for name in self.minimised]
        return bool((self.rivals[rung] <= aims).all(axis=1).any())


def _ahead(name: str, value: float) -> float:
    """Return what is better than ``value`` by the margin."""
    if name == "error":
        return (1.0 - RELATIVE_ERROR_MARGIN) * value - ERROR_MARGIN
    return (1.0 - COST_MARGIN) * value
