import numpy as np
import pytest
from search_fakes import FLASH_BYTES, LIMITS, RAM_BYTES

from sparse_mcu.search.objectives import MINIMISED, OBJECTIVES, UNITS, Budget, Goal
from sparse_mcu.search.volume import Volume

BUDGET = Budget(RAM_BYTES, FLASH_BYTES)


def test_the_share_is_that_of_random_points_which_some_trial_dominates() -> None:
    rng = np.random.default_rng(0)
    F = rng.uniform(0.2, 1.1, size=(30, 3))  # some beyond the budget
    volume, before = Volume(Goal(MINIMISED, BUDGET), LIMITS), 0.0
    for row in F:
        volume.add(dict(zip(MINIMISED, row * [0.9, FLASH_BYTES, RAM_BYTES], strict=True)))
        assert volume.share >= before
        before = volume.share
    points = rng.uniform(size=(20_000, 3))
    dominated = (F[:, None] <= points).all(axis=2).any(axis=0).mean()
    assert volume.share == pytest.approx(dominated, abs=5 * 0.5 / 20_000**0.5)  # five standard errors


def test_what_breaks_a_limit_adds_nothing_though_it_is_no_objective() -> None:
    volume = Volume(Goal(("error", "model_size"), BUDGET), LIMITS)
    small = dict.fromkeys(UNITS, 1.0) | {"error": 0.1}
    volume.add(small | {"ram_bytes": RAM_BYTES + 1.0})
    assert volume.share == 0.0
    volume.add(small)
    assert volume.share > 0.8


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_end(name: str) -> None:
    """A network that takes half of what is allowed, and guesses half as often wrong, holds a part of the box."""
    goal = Goal.of(("accuracy",) if name == "accuracy" else ("accuracy", name), BUDGET)
    volume = Volume(goal, LIMITS)
    volume.add(dict.fromkeys(UNITS, 100.0) | {"error": 0.45})
    assert 0.4 < volume.share <= 0.5
