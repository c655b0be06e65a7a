import pytest
from search_fakes import IMAGES, LIMITS

from sparse_mcu.search.stages import (
    EXPLORE,
    MORPH,
    PATIENCE,
    POLISH,
    REFINE,
    ROUND_FACTOR,
    ROUNDS,
    STAGES,
    Stage,
    is_stagnant,
    polished,
    stage_at,
    steps_of,
    trained_for,
    with_stages,
)
from sparse_mcu.space.layers import layers
from sparse_mcu.space.suggest import contains, suggest

ARCHITECTURE = suggest(LIMITS, lambda dimension: dimension.at(0.4))


GROWING = [0.01 * n for n in range(1, 60)]
STAGNANT = [0.01] * 10 + [0.5] * 60


@pytest.mark.parametrize(
    ("used", "stage"),
    [(0.0, EXPLORE), (EXPLORE.until, MORPH), (MORPH.until, REFINE), (REFINE.until, POLISH), (1.0, POLISH), (1.7, POLISH)],
)
def test_a_stage_lasts_until_its_share_is_used(used: float, stage: Stage) -> None:
    for begun in (None, "explore"):
        assert stage_at(used, begun, GROWING) is stage


def test_a_stage_ends_before_where_nothing_better_is_found_any_more() -> None:
    assert stage_at(EXPLORE.earliest, "explore", STAGNANT) is MORPH
    assert stage_at(EXPLORE.earliest, "explore", GROWING) is EXPLORE
    assert stage_at(EXPLORE.earliest - 0.01, "explore", STAGNANT) is EXPLORE
    assert stage_at(MORPH.earliest, "morph", STAGNANT) is REFINE
    assert stage_at(REFINE.earliest, "refine", STAGNANT) is POLISH
    assert stage_at(0.99, "polish", STAGNANT) is POLISH


def test_a_stage_that_began_early_is_not_left_for_the_one_before() -> None:
    assert stage_at(EXPLORE.earliest, "morph", []) is MORPH
    assert stage_at(MORPH.earliest, "refine", []) is REFINE


def test_stagnant_is_a_later_half_that_hardly_grew() -> None:
    assert not is_stagnant([]) and not is_stagnant([0.5] * PATIENCE)  # too few to tell
    assert is_stagnant([0.5] * (PATIENCE + 1))
    assert not is_stagnant([0.3] * 20 + [0.5] * 20)  # it grew 20 trials ago: half of all
    assert is_stagnant([0.3] * 20 + [0.5] * 21)
    assert is_stagnant([0.0] * 40)  # nothing within the budget: other stages may find some


def test_children_train_least_and_the_refined_most() -> None:
    assert MORPH.steps < EXPLORE.steps < REFINE.steps < POLISH.steps


@pytest.mark.parametrize("images", [IMAGES, 60_000])
def test_polishing_takes_longer_in_every_round_and_stays_within_the_limits(images: int) -> None:
    limits = with_stages(LIMITS, images)
    rounds = [polished(ARCHITECTURE, index, images, 0.0) for index in range(ROUNDS)]
    for index, architecture in enumerate(rounds):
        assert contains(limits, architecture)
        assert layers(architecture) == layers(ARCHITECTURE)
        assert architecture.training.pruning == ARCHITECTURE.training.pruning  # the posterior is read as it was written
        assert steps_of(architecture, images) == pytest.approx(POLISH.steps * ROUND_FACTOR**index, rel=0.2)


@pytest.mark.parametrize("images", [IMAGES, 60_000])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.99])
def test_stages_stay_within_their_limits_and_change_nothing_but_epochs(images: int, quantile: float) -> None:
    limits = with_stages(LIMITS, images)
    drawn = suggest(limits, lambda dimension: dimension.at(quantile if "batch" in dimension.name else 0.4))
    for stage in STAGES:
        trained = trained_for(drawn, stage.steps, images)
        assert contains(limits, trained)
        assert trained_for(trained, steps_of(drawn, images), images) == drawn


def test_epochs_make_up_the_steps_to_half_an_epoch() -> None:
    for stage in STAGES:
        steps = steps_of(trained_for(ARCHITECTURE, stage.steps, IMAGES), IMAGES)
        assert abs(steps - stage.steps) <= 0.5 * IMAGES / ARCHITECTURE.training.batch_size


def test_steps_are_the_same_on_a_data_set_of_any_size() -> None:
    for stage in STAGES:
        steps = [steps_of(trained_for(ARCHITECTURE, stage.steps, images), images) for images in (1000, 10**4, 10**7)]
        assert all(0.8 * stage.steps <= step <= 1.2 * stage.steps for step in steps)
