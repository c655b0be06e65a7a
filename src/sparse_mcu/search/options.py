"""What a search is asked to do, and what it tells while it does."""

from dataclasses import dataclass

from sparse_mcu.deploy.boards import Board
from sparse_mcu.errors import UserError, unknown_name
from sparse_mcu.search.objectives import DEFAULT_OBJECTIVES, OBJECTIVES, Budget, Goal

DEVICES = ("auto", "cpu", "cuda")
OURS = "sparse"
SAMPLERS = (OURS, "random", "nsga2", "tpe", "gp")


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
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES  # names of OBJECTIVES
    sampler: str = OURS

    @property
    def goal(self) -> Goal:
        """What to minimise, and within which limits."""
        return Goal.of(self.objectives, self.budget)

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
        if self.sampler not in SAMPLERS:
            raise UserError(unknown_name("sampler", self.sampler, SAMPLERS))
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise UserError(unknown_name("objective", name, OBJECTIVES))
        if "accuracy" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            named = ",".join(self.objectives)
            raise UserError(f"objectives are accuracy and others, each named once, but are {named!r}; add or leave out")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search is. Trials are those of all sessions of the run."""

    stage: str  # or the sampler's name, where that is not ours; "teacher" before all of them
    share: float  # of the budget that is used, from 0 to 1
    done: int  # complete trials
    failed: int
    refused: int  # candidates that could not have fitted, so that none was trained
    stopped: int  # complete trials whose training was ended early, for it was hopeless
    seconds_left: float | None  # where the budget is a time
    hypervolume: float  # share that the front dominates of the box that ends at chance error and the budget
    best_accuracy: float | None  # on validation, within the budget
    taught: bool = True  # candidates learn from a teacher; False where its training failed
