"""What is measured of a network, by name and in raw units; which of it the search minimises; and the budget."""

from collections.abc import Mapping
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

# What the search minimises, in the order of the study's values.
MINIMISED = ("error", "flash_bytes", "ram_bytes")


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes a network may take on the board, code, stack and input included."""

    ram_bytes: int
    flash_bytes: int

    def keeps(self, objectives: Mapping[str, float]) -> bool:
        """Say whether a network with these objectives stays within the budget."""
        return objectives["ram_bytes"] <= self.ram_bytes and objectives["flash_bytes"] <= self.flash_bytes
