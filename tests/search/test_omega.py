import numpy as np
import optuna
import pytest
from search_fakes import LIMITS

from sparse_mcu.search.omega import choose_by, distribution
from sparse_mcu.space.dimensions import dimensions
from sparse_mcu.space.suggest import assignment, contains, decode, sample, suggest


def study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    return optuna.create_study(sampler=sampler, directions=["minimize"] * 2)


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
        optuna.samplers.NSGAIISampler(seed=0, population_size=5),
    ],
    ids=lambda sampler: str(sampler),
)
def test_optunas_samplers_walk_omega(sampler: optuna.samplers.BaseSampler) -> None:
    search = study(sampler)
    for _ in range(12):
        trial = search.ask()
        architecture = suggest(LIMITS, choose_by(trial))
        assert decode(LIMITS, trial.params) == architecture
        search.tell(trial, [len(architecture.blocks), architecture.training.learning_rate])


def test_a_trial_with_given_parameters_is_the_architecture_they_came_from() -> None:
    rng = np.random.default_rng(0)
    search = study(optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        architecture = sample(LIMITS, rng)
        search.enqueue_trial(assignment(LIMITS, architecture))
        trial = search.ask()
        assert suggest(LIMITS, choose_by(trial)) == architecture
        assert contains(LIMITS, architecture)


def test_distributions_are_those_that_trials_use() -> None:
    expected = {dimension.name: distribution(dimension) for dimension in dimensions(LIMITS)}
    search = study(optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = search.ask()
        suggest(LIMITS, choose_by(trial))
        assert trial.distributions.items() <= expected.items()
