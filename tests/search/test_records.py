from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_fakes import LIMITS

from sparse_mcu.search import records
from sparse_mcu.search.records import record
from sparse_mcu.space.suggest import suggest

ARCHITECTURE = suggest(LIMITS, lambda dimension: dimension.at(0.5))


@pytest.mark.parametrize(
    ("trial_state", "attributes", "state"),
    [
        (TrialState.RUNNING, {}, "running"),
        (TrialState.WAITING, {}, "running"),
        (TrialState.FAIL, {records.ERROR: "the loss is nan"}, "failed"),
        (TrialState.FAIL, {records.ERROR: "stopped", records.INTERRUPTED: True}, "interrupted"),
        (TrialState.FAIL, {records.SHORTFALL: "needs 2000 bytes of RAM"}, "refused"),
    ],
)
def test_states(trial_state: TrialState, attributes: dict[str, Any], state: str) -> None:
    trial = optuna.trial.create_trial(state=trial_state, user_attrs=attributes)
    assert record(trial).state == state
    assert record(trial).objectives == {} and record(trial).error == attributes.get(records.ERROR)


def test_a_complete_trial() -> None:
    objectives = {"error": 0.125, "flash_bytes": 4000.0}
    attributes = {
        records.ARCHITECTURE: ARCHITECTURE.to_json(),
        records.STAGE: "morph",
        records.PARENT: 3,
        records.OBJECTIVES: objectives,
        records.RUNGS: [{"error": 0.5}],
        records.STOPPED: True,
        records.REFUSED: 2,
        records.SECONDS: 2.5,
    }
    found = record(optuna.trial.create_trial(values=[0.125, 4000.0], user_attrs=attributes))
    assert (found.state, found.stage, found.parent, found.seconds, found.error) == ("complete", "morph", 3, 2.5, None)
    assert (found.rungs, found.stopped, found.refused) == ([{"error": 0.5}], True, 2)
    assert found.architecture == ARCHITECTURE and found.objectives == objectives and found.accuracy == 0.875


def test_what_another_optimiser_proposed_has_no_stage() -> None:
    found = record(optuna.trial.create_trial(values=[0.1], user_attrs={records.OBJECTIVES: {"error": 0.1}}))
    assert found.stage is None and found.parent is None and found.architecture is None
