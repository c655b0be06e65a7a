"""Ω as Optuna sees it: a trial's ``suggest_*`` drives the walk of ``space.suggest``, so that any of its samplers can."""

from collections.abc import Callable
from typing import cast

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sparse_mcu.space.dimensions import Choice, Dimension, Value


def choose_by(trial: Trial) -> Callable[[Dimension], Value]:
    """Return the function that lets ``trial``, and so the study's sampler, choose the value of a dimension."""

    def choose(dimension: Dimension) -> Value:
        name = dimension.name
        if isinstance(dimension, Choice):
            # All values, feasible here or not: Optuna wants the same list in every trial, and the walk projects.
            return cast(Value, trial.suggest_categorical(name, dimension.values))
        if dimension.integer:
            return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=True)
        return trial.suggest_float(name, dimension.low, dimension.high, log=True)

    return choose


def distribution(dimension: Dimension) -> BaseDistribution:
    """Return what ``choose_by`` draws the value of ``dimension`` from."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.values)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=True)
    return FloatDistribution(dimension.low, dimension.high, log=True)
