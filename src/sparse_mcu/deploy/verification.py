"""Proof that a network does on its board what was promised: compiled, run on every image, compared with its prediction.

The same images go through NumPy, through the C on this machine and through the C on the simulated board. Every logit must agree.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import simulators, toolchain
from sparse_mcu.deploy.boards import Board, TimeUnit
from sparse_mcu.deploy.firmware import build_firmware
from sparse_mcu.deploy.generate import generate
from sparse_mcu.deploy.host import host_logits
from sparse_mcu.deploy.predict import Prediction, predict
from sparse_mcu.deploy.simulation import Progress
from sparse_mcu.deploy.simulators import simulate
from sparse_mcu.deploy.source import CSource
from sparse_mcu.deploy.target import Target
from sparse_mcu.errors import BoardError
from sparse_mcu.quant import interpreter
from sparse_mcu.quant.graph import IntegerGraph
from sparse_mcu.quant.macs import macs, nonzero_macs

# Figures that are instructions on boards that count these.
COUNTED = ("cycles", "max_cycles", "predicted_cycles")
TIMED_IMAGES = 8  # whose time is taken from the manual: it hardly depends on what an image shows
Logits = npt.NDArray[np.int16]  # (N, classes)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the simulated board showed."""

    simulated_images: int  # the first so many
    accuracy: float  # of these
    flash_bytes: int  # code and constants of the model, by linking with and without it
    ram_bytes: int  # variables of the model, its input buffer included, and the deepest stack of a run
    cycles: int  # of an inference, rounded mean over the images; instructions where the board counts these
    max_cycles: int
    core_cycles: int | None  # of an inference by the manual of a core whose instructions are counted; of the first few images
    milliseconds: float | None  # of the mean at the board's clock, by the manual where instructions are counted; else None
    compiler: str
    simulator: str


@dataclass(frozen=True, slots=True)
class Verification:
    """A network on a board: measured beside predicted. ``measured`` is None where the board could not be simulated here."""

    board: str
    time_unit: TimeUnit  # of all that is called cycles here
    images: int
    numpy_accuracy: float
    host_accuracy: float
    measured: Measurement | None
    not_simulated: str | None  # why, where ``measured`` is None
    mismatches: int  # logits of all images on which NumPy, this machine and, where it ran, the board do not all agree
    predicted_flash_bytes: int
    predicted_ram_bytes: int
    predicted_cycles: int
    macs: int
    nonzero_macs: int
    host_compiler: str

    @property
    def test_accuracy(self) -> float:
        """Accuracy on all images where the C ran closest to the device: on the simulated board, else on this machine."""
        if self.measured is None or self.measured.simulated_images < self.images:
            return self.host_accuracy
        return self.measured.accuracy

    def to_json(self) -> dict[str, Any]:
        """Return one flat object for scripts; the measured figures are null where nothing was simulated.

        What is not cycles is not called so: on boards whose instructions are counted the keys say ``instructions``.
        """
        flat = dataclasses.asdict(self)
        del flat["measured"]
        names = [field.name for field in dataclasses.fields(Measurement) if field.name != "accuracy"]
        measured = {name: None if self.measured is None else getattr(self.measured, name) for name in names}
        whole = {
            "test_accuracy": self.test_accuracy,
            "simulated": self.measured is not None,
            "board_accuracy": None if self.measured is None else self.measured.accuracy,
            **flat,
            **measured,
        }
        return {key.replace("cycles", self.time_unit) if key in COUNTED else key: value for key, value in whole.items()}


def verify(
    graph: IntegerGraph,
    target: Target,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    progress: Progress | None = None,  # of the simulation, by far the longest part
    simulated: int | None = None,  # images that the board runs, from the first on; None: all
    reentrant: bool = False,  # the C as it is with a state of the caller's, of which the programs have one
) -> Verification:
    """Build ``graph`` for this machine and for ``target`` and run every image on both, or but the first on the board.

    Raises BoardError where it does not fit the board, and ToolchainError without a compiler for this machine. Without a simulator
    for the board the C is checked on this machine alone.
    """
    board = target.board
    toolchain.require(toolchain.HOST, "checking C on this machine", "the network runs in NumPy only")
    prediction = predict(graph, target)
    _check_fit(prediction, board)
    source = generate(graph, target, reentrant=reentrant).with_one_state()
    reference = interpreter.run(graph, images)
    host = host_logits(source, images)
    differs = host != reference
    measured = None
    obstacle = toolchain.obstacle(board)
    if obstacle is None:
        logits, measured = _measure(source, board, images[:simulated], labels[:simulated], progress)
        differs[: len(logits)] |= logits != reference[: len(logits)]
    return Verification(
        board=board.name,
        time_unit=board.time_unit,
        images=len(images),
        numpy_accuracy=_accuracy(reference, labels),
        host_accuracy=_accuracy(host, labels),
        measured=measured,
        not_simulated=obstacle,
        mismatches=int(differs.sum()),
        predicted_flash_bytes=prediction.flash_bytes,
        predicted_ram_bytes=prediction.ram_bytes,
        predicted_cycles=prediction.cycles,
        macs=macs(graph),
        nonzero_macs=nonzero_macs(graph),
        host_compiler=toolchain.version("cc"),
    )


def _check_fit(prediction: Prediction, board: Board) -> None:
    """A stack that does not fit would end as a crash in the simulation: better to say what is needed."""
    for what, needed, available in (
        ("flash", prediction.flash_bytes, board.flash_bytes),
        ("RAM", prediction.ram_bytes, board.ram_bytes),
    ):
        if needed > available:
            raise BoardError(f"a network must fit its board, but needs {needed} bytes of {what} and {board.name} has {available}")


def _measure(
    source: CSource,
    board: Board,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    progress: Progress | None,
) -> tuple[Logits, Measurement]:
    firmware = build_firmware(source, board)
    simulation = simulate(firmware, images, progress)
    by_manual = simulators.core_cycles(firmware, images[:TIMED_IMAGES])
    cycles = float(simulation.cycles.mean())
    core_cycles = None if by_manual is None else float(by_manual.mean())
    return simulation.logits, Measurement(
        simulated_images=len(images),
        accuracy=_accuracy(simulation.logits, labels),
        flash_bytes=firmware.flash_bytes,
        ram_bytes=firmware.static_ram_bytes + simulation.stack_bytes,
        cycles=round(cycles),
        max_cycles=int(simulation.cycles.max()),
        core_cycles=None if core_cycles is None else round(core_cycles),
        milliseconds=board.milliseconds(cycles) if core_cycles is None else 1e3 * core_cycles / board.clock_hz,
        compiler=toolchain.version(board.compiler),
        simulator=simulators.version(board),
    )


def _accuracy(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    return float((logits.argmax(axis=1) == labels).mean())
