"""How often early stopping stops a candidate that would have entered the front, and how much training it saves.

    cd benchmarks && python early_stopping.py --orders 200 --seed 0

Replays the networks of omega_bench, whose objectives are known after a quarter, half and all of their training, in random orders,
as a search would meet them: whoever is stopped at a rung is measured no further, and is no rival of those who come after.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from omega_bench.problem import BUDGET, GOAL, SHARES, Point, read_points
from sparse_mcu.search import rungs
from sparse_mcu.search.rungs import Rungs

EACH = 300  # candidates of a replayed search
POSITIONS = tuple(SHARES.index(share) for share in rungs.SHARES)  # of the rungs in a point's curve


def main() -> None:
    options = _options()
    points = [point for point in read_points() if point.number % 2 == options.half]
    counts: Counter[str] = Counter()
    for order in range(options.orders):
        chosen = np.random.default_rng((options.seed, order)).permutation(len(points))[:EACH]
        counts.update(replay([points[index] for index in chosen]))
    total, stopped = options.orders * EACH, counts["stopped"]
    print(f"{len(points)} networks, {options.orders} searches of {EACH}")
    print(f"stopped: {stopped / total:.1%} of the candidates; training saved: {counts['saved'] / len(SHARES) / total:.1%}")
    print(f"would have entered the front: {counts['entrants'] / total:.1%} of the candidates")
    print(f"  of these wrongly stopped: {counts['wrong'] / counts['entrants']:.2%}")
    print(f"  of all stopped these are: {counts['wrong'] / max(1, stopped):.2%}")


def replay(points: Sequence[Point]) -> Counter[str]:
    """Meet ``points`` one after the other and count what early stopping does to them. ``saved``: quarters of a training."""
    counts: Counter[str] = Counter()
    front = np.empty((0, len(GOAL.minimised)))
    known = Rungs.of(GOAL.minimised, [])
    for point in points:
        final = _row(point, -1)
        enters = BUDGET.keeps(point.objectives) and not (front <= final).all(axis=1).any()
        counts["entrants"] += enters
        rung = next((r for r, position in enumerate(POSITIONS) if known.hopeless(r, point.curve[position])), None)
        reached = [_row(point, position) for position in POSITIONS[: None if rung is None else rung + 1]]
        known = _with(known, reached)
        if rung is not None:
            counts.update(stopped=1, wrong=int(enters), saved=len(SHARES) - 1 - POSITIONS[rung])
        elif enters:
            front = np.vstack([front[~(final <= front).all(axis=1)], final])
    return counts


def _with(known: Rungs, reached: list[np.ndarray]) -> Rungs:
    """Return ``known`` with one more rival at the rungs that it reached."""
    rivals = [np.vstack([rival, row]) for rival, row in zip(known.rivals, reached, strict=False)]
    return dataclasses.replace(known, rivals=(*rivals, *known.rivals[len(rivals) :]))


def _row(point: Point, position: int) -> np.ndarray:
    return np.array([point.curve[position][name] for name in GOAL.minimised])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", type=int, choices=(0, 1), default=1, help="0: the networks that the margins were chosen on")
    return parser.parse_args()


if __name__ == "__main__":
    main()
