"""The table as a function of all of Ω: points of the table as they were measured, others as gradient-boosted trees predict them.

    cd benchmarks && python -m omega_bench.surrogate        # how far predictions are off, by cross-validation

Trees, and not Gaussian processes: an optimiser whose model is of the same family as the function would be flattered.
"""

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from omega_bench.problem import GOAL, LIMITS, Point, read_points, standard
from sparse_mcu.search.guide import ERROR_FLOOR, point
from sparse_mcu.search.surrogate import INACTIVE
from sparse_mcu.space.architecture import Architecture

FOLDS = 10
FLOORS = np.array([ERROR_FLOOR if name == "error" else 0.0 for name in GOAL.minimised])  # logarithms are of value + floor
Float64Array = npt.NDArray[np.float64]


class Surrogate:
    """Objectives of any architecture of omega_bench, in the order of ``GOAL.minimised``; the same every time."""

    def __init__(self, points: list[Point]) -> None:
        self._known = {point.architecture: _outcomes(point) for point in points}
        X = np.stack([features(architecture) for architecture in self._known])
        Y = np.log(np.stack(list(self._known.values())) + FLOORS)
        self._models = [regressor().fit(X, column) for column in Y.T]

    def __call__(self, architecture: Architecture) -> Float64Array:
        """Return the objectives of ``architecture``, (k,)."""
        canonical = standard(architecture)
        if canonical not in self._known:
            x = features(canonical)[None]
            predicted = np.exp([float(model.predict(x)[0]) for model in self._models]) - FLOORS
            self._known[canonical] = np.maximum(predicted, 0.0)
        return self._known[canonical]


def features(architecture: Architecture) -> Float64Array:
    """Return the encoding of Ω and the costs known before training, as the search's own surrogate sees them."""
    values, active = point(LIMITS, architecture)
    return np.where(active, values, INACTIVE)


def regressor() -> HistGradientBoostingRegressor:
    """Return an untrained model of one objective's logarithm."""
    return HistGradientBoostingRegressor(max_iter=250, learning_rate=0.06, max_leaf_nodes=12, random_state=0)


def _outcomes(point: Point) -> Float64Array:
    return np.array([point.objectives[name] for name in GOAL.minimised])


def main() -> None:
    points = read_points()
    X = np.stack([features(point.architecture) for point in points])
    Y = np.stack([_outcomes(point) for point in points])
    print(f"{len(points)} points, {FOLDS}-fold cross-validation")
    for name, column, floor in zip(GOAL.minimised, Y.T, FLOORS, strict=True):
        folds = KFold(FOLDS, shuffle=True, random_state=0)
        target = np.log(column + floor)
        predicted = cross_val_predict(regressor(), X, target, cv=folds)
        explained = 1.0 - np.mean((predicted - target) ** 2) / np.var(target)
        off = np.abs(np.exp(predicted) - floor - column)
        print(f"{name}: R2 of the logarithm {explained:.3f}, median absolute error {np.median(off):.4g}")


if __name__ == "__main__":
    main()
