import pytest
from search_fakes import LIMITS

from sparse_mcu.search.stages import EXPLORE, MORPH, REFINE, STAGES, epochs_of, stage_at, with_epochs
from sparse_mcu.space.suggest import contains, suggest


@pytest.mark.parametrize(
    ("used", "stage"), [(0.0, EXPLORE), (EXPLORE.until, MORPH), (MORPH.until, REFINE), (1.0, REFINE), (1.7, REFINE)]
)
def test_a_stage_lasts_until_its_share_is_used(used: float, stage: object) -> None:
    assert stage_at(used) is stage


def test_children_train_for_fewer_epochs_and_the_refined_for_most() -> None:
    fewest, most = LIMITS.training.epochs
    epochs = {stage.name: epochs_of(stage, LIMITS) for stage in STAGES}
    assert fewest <= epochs["morph"] < epochs["explore"] < epochs["refine"] == most


def test_epochs_change_nothing_else_and_stay_within_the_limits() -> None:
    architecture = suggest(LIMITS, lambda dimension: dimension.at(0.4))
    for stage in STAGES:
        changed = with_epochs(architecture, epochs_of(stage, LIMITS))
        assert contains(LIMITS, changed)
        assert with_epochs(changed, architecture.training.epochs) == architecture
