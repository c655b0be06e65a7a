"""A trial of the study as a plain value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from sparse_mcu.space.architecture import Architecture

State = Literal["running", "complete", "failed", "interrupted"]

# The user attributes of a trial.
ARCHITECTURE = "architecture"  # JSON of the architecture that was evaluated
STAGE = "stage"  # of the search that proposed it
PARENT = "parent"  # number of the trial whose weights it began with
OBJECTIVES = "objectives"  # {name: raw value} of everything measured
SECONDS = "seconds"  # how long the evaluation took
ERROR = "error"  # why it failed
INTERRUPTED = "interrupted"  # true where the search ended before the evaluation did


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One candidate and what became of it."""

    number: int
    state: State
    stage: str | None  # None where another optimiser proposed it
    parent: int | None
    architecture: Architecture | None  # None only where the process died before it was recorded
    objectives: Mapping[str, float]  # raw values by name; empty unless complete
    seconds: float | None
    error: str | None

    @property
    def accuracy(self) -> float:
        """Share of the validation images that the integer network of a complete trial gets right."""
        return 1.0 - self.objectives["error"]


def record(trial: FrozenTrial) -> TrialRecord:
    """Read ``trial``."""
    attributes = trial.user_attrs
    architecture = attributes.get(ARCHITECTURE)
    state = _state(trial)
    return TrialRecord(
        number=trial.number,
        state=state,
        stage=attributes.get(STAGE),
        parent=attributes.get(PARENT),
        architecture=None if architecture is None else Architecture.from_json(architecture),
        objectives=attributes[OBJECTIVES] if state == "complete" else {},
        seconds=attributes.get(SECONDS),
        error=attributes.get(ERROR),
    )


def _state(trial: FrozenTrial) -> State:
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if not trial.state.is_finished():
        return "running"
    return "interrupted" if trial.user_attrs.get(INTERRUPTED) else "failed"
