import optuna
import pytest
from search_fakes import LIMITS, objectives

from sparse_mcu.search.objectives import MINIMISED
from sparse_mcu.search.omega import choose_by
from sparse_mcu.search.options import OURS, SAMPLERS
from sparse_mcu.search.samplers import other_sampler
from sparse_mcu.space.architecture import Architecture
from sparse_mcu.space.suggest import suggest


def proposed(name: str, seed: int, trials: int, begun: int = 0) -> list[Architecture]:
    study = optuna.create_study(directions=["minimize"] * 3, sampler=other_sampler(name, seed, begun))
    architectures = []
    for _ in range(trials):
        trial = study.ask()
        architectures.append(suggest(LIMITS, choose_by(trial)))
        measured = objectives(architectures[-1])
        study.tell(trial, [measured[name] for name in MINIMISED])
    return architectures


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != OURS])
def test_every_other_sampler_walks_omega_and_repeats_itself(name: str) -> None:
    first = proposed(name, seed=0, trials=12)  # the model of TPE and of the Gaussian process is asked twice
    assert first == proposed(name, seed=0, trials=12)
    assert first[0] != proposed(name, seed=1, trials=1)[0]
    assert first[0] != proposed(name, seed=0, trials=1, begun=12)[0]  # a resumed search does not begin again
