"""What is measured of a network, by name and in raw units; which of it a search minimises, and within which limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Everything that an evaluation measures, with its unit. Cycles are those of one inference.
UNITS = {
    "error": "share of the validation images that the integer network gets wrong",
    "flash_bytes": "bytes",
    "ram_bytes": "bytes",
    "model_size": "non-zero weights",
    "working_memory_1": "bytes",
    "working_memory_2": "bytes",
    "macs": "multiply-accumulates",
    "nonzero_macs": "multiply-accumulates",
    "cycles": "cycles",
}

# What a search can be told to optimise, by the user's name for it. Weights stay in flash: of the paper's two readings of
# working memory it is the second.
OBJECTIVES = {
    "accuracy": "error",
    "flash": "flash_bytes",
    "ram": "ram_bytes",
    "model_size": "model_size",
    "working_memory": "working_memory_2",
    "macs": "macs",
    "cycles": "cycles",
}
# What a search can be told to limit besides, by the user's name for it; a limit of the working memory holds for both readings.
LIMITED = {
    "model_size": ("model_size",),
    "working_memory": ("working_memory_1", "working_memory_2"),
    "macs": ("macs",),
}
# What falls as weights leave: a network beyond a limit of these can have children that keep it.
PRUNABLE = ("flash_bytes", "model_size", "working_memory_1", "nonzero_macs", "cycles")
DEFAULT_OBJECTIVES = ("accuracy", "flash", "ram")
MINIMISED = tuple(OBJECTIVES[name] for name in DEFAULT_OBJECTIVES)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a network may take on the board: its bytes, code, stack and input included, and the cycles of one inference.

    The others are counts that mean the same on any board. None: as many as it likes.
    """

    ram_bytes: int
    flash_bytes: int
    cycles: int | None = None
    model_size: int | None = None
    working_memory: int | None = None
    macs: int | None = None

    def __str__(self) -> str:
        named = [f"{self.cycles} cycles"] if self.cycles is not None else []
        named += [f"{name.replace('_', ' ')} {getattr(self, name)}" for name in LIMITED if getattr(self, name) is not None]
        return " and ".join([f"{self.ram_bytes} bytes of RAM and {self.flash_bytes} of flash", *named])

    @property
    def limits(self) -> Mapping[str, int]:
        """The limits by the names of UNITS."""
        limits = {"flash_bytes": self.flash_bytes, "ram_bytes": self.ram_bytes, "cycles": self.cycles}
        limits |= {unit: getattr(self, name) for name, units in LIMITED.items() for unit in units}
        return {unit: limit for unit, limit in limits.items() if limit is not None}

    def keeps(self, objectives: Mapping[str, float]) -> bool:
        """Say whether a network with these objectives stays within the budget."""
        return all(excess <= 0.0 for excess in self.excesses(objectives).values())

    def excesses(self, objectives: Mapping[str, float]) -> dict[str, float]:
        """Return by which share of it a network with these objectives exceeds each limit; 0 or less where it keeps it."""
        return {name: objectives[name] / limit - 1.0 for name, limit in self.limits.items()}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a search minimises, by the names of UNITS and in the order of the study's values, and the budget it must keep."""

    minimised: tuple[str, ...]
    budget: Budget

    @classmethod
    def of(cls, objectives: Sequence[str], budget: Budget) -> "Goal":
        """Return the goal of a user who names ``objectives`` as in OBJECTIVES."""
        return cls(tuple(OBJECTIVES[name] for name in objectives), budget)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is minimised, and behind it what else the budget limits."""
        return self.minimised + tuple(name for name in self.budget.limits if name not in self.minimised)
