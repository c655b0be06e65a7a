"""What a search is asked to do, and what it tells while it does."""

from dataclasses import dataclass

from sparse_mcu.deploy.boards import Board
from sparse_mcu.errors import UserError, unknown_name
from sparse_mcu.search.objectives import Budget

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What to search for, on what, and for how long: for ``seconds`` or for ``trials``, all sessions of the run together."""

    board: Board
    budget: Budget
    seconds: float | None = None
    trials: int | None = None
    seed: int = 0
    workers: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise UserError where an option makes no sense, by itself or beside the others."""
        if (self.seconds is None) == (self.trials is None):
            raise UserError(
                f"a search ends after a time or after a number of trials, but seconds={self.seconds} and trials={self.trials}"
            )
        for name in ("seconds", "trials", "workers"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, but is {value}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, but is {self.seed}")
        if self.device not in DEVICES:
            raise UserError(unknown_name("device", self.device, DEVICES))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is. Trials are those of all sessions of the run."""

    stage: str
    share: float  # of the budget that is used, from 0 to 1
    done: int  # complete trials
    failed: int
    seconds_left: float | None  # where the budget is a time
    hypervolume: float  # share of the box between nothing, and chance error and the budget's bytes, that the front dominates
    best_accuracy: float | None  # on validation, within the budget
