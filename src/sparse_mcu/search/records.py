"""A trial of the study as a plain value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from sparse_mcu.space.architecture import Architecture

State = Literal["running", "complete", "failed", "refused", "interrupted"]

# The user attributes of a trial.
ARCHITECTURE = "architecture"  # JSON of the architecture that was evaluated
STAGE = "stage"  # of the search that proposed it
PARENT = "parent"  # number of the trial whose weights it began with
REFUSED = "refused"  # how many candidates the sampler refused before it proposed this one, for they could not have fitted
SHORTFALL = "shortfall"  # why the candidate itself could not have fitted: a trial of a sampler that did not know
OBJECTIVES = "objectives"  # {name: raw value} of everything measured
RUNGS = "rungs"  # the same as measured at each rung of early stopping that the training reached
STOPPED = "stopped"  # true where the training ended at the last of these rungs
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
    rungs: Sequence[Mapping[str, float]]  # the same, while it trained; empty unless complete
    stopped: bool  # at the last of the rungs
    refused: int  # candidates that could not have fitted, this one or others before it
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
        rungs=attributes.get(RUNGS, ()) if state == "complete" else (),
        stopped=attributes.get(STOPPED, False),
        refused=attributes.get(REFUSED, 0) + (state == "refused"),
        seconds=attributes.get(SECONDS),
        error=attributes.get(ERROR),
    )


def _state(trial: FrozenTrial) -> State:
    if trial.state == TrialState.COMPLETE:
        return "complete"
    if not trial.state.is_finished():
        return "running"
    if trial.user_attrs.get(INTERRUPTED):
        return "interrupted"
    return "refused" if SHORTFALL in trial.user_attrs else "failed"
