"""The simulator that goes with a board."""

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import qemu, simavr
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.firmware import Firmware
from sparse_mcu.deploy.simulation import Progress, Simulation


def simulate(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    progress: Progress | None = None,
) -> Simulation:
    """Run every image on the simulated board of ``firmware``; raise FirmwareFault where the program is at fault."""
    return (
        qemu.simulate(firmware, images, progress)
        if firmware.board.simulator == "qemu"
        else simavr.simulate(firmware, images, progress)
    )


def core_cycles(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
) -> npt.NDArray[np.uint64] | None:  # (N,)
    """Return what inferences take by the manual of the core, where the simulator counts instructions and the manual is known."""
    return qemu.core_cycles(firmware, images) if firmware.board.simulator == "qemu" else None


def version(board: Board) -> str:
    """Return the name and the version of the simulator for ``board``, for reports."""
    return qemu.version(board) if board.simulator == "qemu" else simavr.version()
