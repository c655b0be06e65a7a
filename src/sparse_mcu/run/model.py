"""One network of a run: what it was measured at, C for it, and the proof on the board."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_mcu.deploy import boards
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.simulation import Progress
from sparse_mcu.deploy.target import Optimise, Target
from sparse_mcu.deploy.verification import Verification, verify
from sparse_mcu.errors import UserError, unknown_name
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.onnx.export import qdq_bytes
from sparse_mcu.run.files import make_directory, write_bytes
from sparse_mcu.search.ledger import Ledger
from sparse_mcu.search.records import TrialRecord

if TYPE_CHECKING:
    from sparse_mcu.run.run import Run

FORMATS = ("c", "onnx")


@dataclass(frozen=True)
class Model:
    """A trained, pruned, integer network: what trial ``number`` of ``run`` found."""

    run: "Run"
    trial: TrialRecord

    @property
    def number(self) -> int:
        """The trial's number, by which the command line names the model."""
        return self.trial.number

    @property
    def accuracy(self) -> float:
        """Share of the validation images that the integer network gets right."""
        return self.trial.accuracy

    @cached_property
    def graph(self) -> IntegerGraph:
        """The integer graph: all that runs on the device."""
        with Ledger.open(self.run.path) as ledger:
            return ledger.graph(self.number)

    def to_json(self) -> dict[str, Any]:
        """Return the model's figures. Bytes and cycles are those predicted for the run's board.

        On boards that count instructions (see ``Board.time_unit``) these are what is called cycles, and milliseconds is None.
        """
        assert self.trial.architecture is not None
        measured = {name: value for name, value in self.trial.objectives.items() if name != "error"}
        return {
            "number": self.number,
            "stage": self.trial.stage,
            "parent": self.trial.parent,
            "validation_accuracy": self.accuracy,
            **measured,
            "weight_bits": self.trial.architecture.training.weight_bits,
            "milliseconds": self.run.board.milliseconds(measured["cycles"]),
        }

    def export(
        self, out: str | Path | None = None, format: str = "c", optimise: Optimise = "balanced", reentrant: bool = False
    ) -> tuple[Path, ...]:
        """Write the network into the directory ``out`` (RUN/export unless given) and return the paths of its files.

        ``format`` is c, a source and a header, or onnx, a quantised (QDQ) network. ``optimise`` says what of the C matters most:
        the least flash (size), the fewest cycles that the run's flash budget allows (speed), or some of both. A ``reentrant``
        network keeps its variables in a struct of the caller's, so that several can run at the same time.
        """
        if format not in FORMATS:
            raise UserError(unknown_name("export format", format, FORMATS))
        if format != "c" and optimise != "balanced":
            raise UserError(f"only C is optimised for {optimise}, but the format is {format}; leave one of them out")
        if format != "c" and reentrant:
            raise UserError(f"only C is made reentrant, but the format is {format}; leave one of them out")
        files = self._onnx() if format == "onnx" else self._c(optimise, reentrant)
        directory = self.run.path / "export" if out is None else Path(out)
        make_directory(directory)
        for name, data in files.items():
            write_bytes(directory / name, data)
        return tuple(directory / name for name in files)

    def _c(self, optimise: Optimise, reentrant: bool) -> dict[str, bytes]:
        source = generate(self.graph, self._target(self.run.board, optimise), reentrant=reentrant)
        return {f"{source.name}.h": source.header.encode(), f"{source.name}.c": source.source.encode()}

    def _onnx(self) -> dict[str, bytes]:
        return {"model.onnx": qdq_bytes(self.graph)}

    def verify(
        self,
        board: str | None = None,
        source: str | Path | None = None,
        progress: Progress | None = None,
        optimise: Optimise = "balanced",
        images: int | None = None,
        reentrant: bool = False,
    ) -> Verification:
        """Build the network, run the whole test split on ``board`` (the run's unless given), and compare with the interpreter.

        ``source`` says where the data are if they moved; ``optimise`` and ``reentrant`` are as for ``export``. With
        ``images`` the board runs the first so many alone, for a slow network would take its simulation hours; the interpreter
        and this machine run all.
        """
        if images is not None and images < 1:
            raise UserError(f"a board must be simulated on at least one image, but images is {images}")
        target = self._target(self.run.board if board is None else boards.board(board), optimise)
        test = self.run.dataset(source).test
        return verify(self.graph, target, test.images, test.labels, progress, images, reentrant)

    def _target(self, board: Board, optimise: Optimise) -> Target:
        """The run's budget is for its own board."""
        if board != self.run.board:
            return Target(board, optimise=optimise)
        return Target(board, self.run.budget.ram_bytes, self.run.budget.flash_bytes, optimise)
