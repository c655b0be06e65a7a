import pytest
from search_fakes import IMAGES, LIMITS

from sparse_mcu.search.stages import (
    EXPLORE,
    LONGEST_POLISHING,
    MORPH,
    PATIENCE,
    POLISH,
    REFINE,
    STAGES,
    Stage,
    is_stagnant,
    polished,
    polishing_round,
    polishing_steps,
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
@pytest.mark.parametrize("steps", [POLISH.steps, LONGEST_POLISHING])
def test_a_polished_network_is_the_same_but_for_its_training(images: int, steps: int) -> None:
    architecture = polished(ARCHITECTURE, steps, images)
    assert contains(with_stages(LIMITS, images), architecture)
    assert layers(architecture) == layers(ARCHITECTURE)
    assert architecture.training.pruning == ARCHITECTURE.training.pruning  # the posterior is read as it was written
    assert architecture.training.augmentation == ARCHITECTURE.training.augmentation
    assert steps_of(architecture, images) == pytest.approx(steps, rel=0.05)


def test_polishing_has_three_rounds_of_a_third_of_its_time() -> None:
    third = (1.0 - REFINE.until) / 3
    shares = [REFINE.earliest, REFINE.until, REFINE.until + 1.1 * third, REFINE.until + 2.1 * third, 0.999, 1.2]
    assert [polishing_round(used) for used in shares] == [0, 0, 1, 2, 2, 2]


def test_polishing_takes_longer_in_every_round_and_never_longer_than_there_is_time() -> None:
    third, hour = (1.0 - REFINE.until) / 3, 3600.0
    rounds = [polishing_steps(REFINE.until + index * third + 0.001, hour, step_seconds=0.005) * 0.005 for index in range(3)]
    assert rounds == pytest.approx([60.0, 120.0, 240.0])  # of 24 minutes
    assert polishing_steps(0.99, hour, step_seconds=0.005) * 0.005 == pytest.approx(0.9 * 36.0)
    assert polishing_steps(REFINE.until, 100.0, step_seconds=0.005) == POLISH.steps  # there are fewer of them then
    assert polishing_steps(0.9, 1e6, step_seconds=0.005) == LONGEST_POLISHING


def test_polishing_in_the_last_moment_stays_within_the_limits() -> None:
    limits = with_stages(LIMITS, IMAGES)
    for used in (0.9999, 1.0, 1.1):
        assert contains(limits, polished(ARCHITECTURE, polishing_steps(used, 60.0, step_seconds=0.005), IMAGES))


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
