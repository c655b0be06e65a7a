"""run.json: what a run was asked to do. docs/file-formats.md lists its fields."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_mcu.deploy.boards import board
from sparse_mcu.errors import RunError
from sparse_mcu.run.files import write_text
from sparse_mcu.search.objectives import Budget
from sparse_mcu.search.options import SearchOptions

FORMAT = 4
OLDEST_FORMAT = 3  # had no limits
FILE = "run.json"


@dataclass(frozen=True, slots=True)
class Record:
    """What a run was asked to do; together with the data it makes the search repeatable."""

    source: str  # as ``data.load`` takes it; a path is absolute, so that a run is resumed from anywhere
    data_digest: str  # SHA-256 over the data set's arrays
    board: str
    ram_bytes: int  # of a network
    flash_bytes: int  # of a network
    cycles: int | None  # of one inference of a network; None: no limit
    limits: dict[str, int]  # of what else a network may have, by the names of ``objectives.LIMITED``
    seconds: float | None  # of the search, all sessions together; or
    trials: int | None
    seed: int
    workers: int
    device: str
    objectives: tuple[str, ...]
    sampler: str
    created: str  # UTC, ISO 8601
    versions: dict[str, str]  # of sparse-mcu, Python and the libraries that decide a result

    @property
    def budget(self) -> Budget:
        """What a network may take."""
        return Budget(self.ram_bytes, self.flash_bytes, self.cycles, **self.limits)

    @property
    def options(self) -> SearchOptions:
        """What the search is told. Raises UserError where a value makes no sense."""
        return SearchOptions(
            board=board(self.board),
            budget=self.budget,
            seconds=self.seconds,
            trials=self.trials,
            seed=self.seed,
            workers=self.workers,
            device=self.device,
            objectives=self.objectives,
            sampler=self.sampler,
        )

    def write(self, directory: Path) -> None:
        """Write run.json into ``directory``."""
        write_text(directory / FILE, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Read run.json; raises RunError where ``directory`` is not a run that this version can read."""
        value = _read_object(directory)
        number = value.pop("format", None)
        if type(number) is not int:
            raise RunError(f"{directory / FILE} must name its format as an integer, but has {number!r}; it is not ours")
        if number > FORMAT:
            raise RunError(f"this version reads runs of format {FORMAT}, but {directory} has format {number}; update sparse-mcu")
        if number < OLDEST_FORMAT:
            oldest = f"this version reads runs of format {OLDEST_FORMAT} and later"
            raise RunError(f"{oldest}, but {directory} has format {number}; search anew")
        if number == OLDEST_FORMAT:
            value["limits"] = {}
        odd = sorted(value.keys() ^ {field.name for field in dataclasses.fields(cls)})
        if odd:
            raise RunError(f"{directory / FILE} is damaged: missing or unknown {', '.join(odd)}")
        return cls(**{**value, "objectives": tuple(value["objectives"])})


def _read_object(directory: Path) -> dict[str, Any]:
    try:
        value = json.loads((directory / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        lack = f"has no {FILE}" if directory.exists() else "does not exist"
        raise RunError(f"a run is a directory that search made, but {directory} {lack}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {directory / FILE}: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{directory / FILE} is damaged: it must hold an object, but holds {value!r:.40}")
    return value
