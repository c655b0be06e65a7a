"""Runs a firmware in QEMU: logits, exact counts of instructions and the deepest stack of every image.

QEMU translates programs: it knows what instructions do and how many there are, not how long a core takes for them. Where the
manual of a core says how long, a plugin adds it up (``core_cycles``). The stack is known by paint alone: a frame that is reserved
and never written does not show where it is the deepest.
"""

import dataclasses
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.boards import Board
from sparse_mcu.deploy.core_timings import CORE_TIMINGS
from sparse_mcu.deploy.firmware import WARNINGS, C, Firmware
from sparse_mcu.deploy.machines import Machine, machine
from sparse_mcu.deploy.simulation import FirmwareFault, Pixels, Progress, Records, Simulation, in_chunks, pixels, whole_images
from sparse_mcu.errors import ToolchainError

PLUGIN = C / "qemu_cycles.c"
TIME_LIMIT_S = 600.0  # of the images of a process
OPTIONS = (
    *("-display", "none", "-serial", "none", "-monitor", "none"),
    *("-semihosting-config", "enable=on,target=native"),
)
# The exit status of c/qemu_harness.c where the program is at fault. QEMU aborts by a signal where even the harness cannot go on.
FAULTS = {3: "the program crashed", 4: "the stack must stay above the variables, but reached them"}


def simulate(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    progress: Progress | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> Simulation:
    """Run every image; raise FirmwareFault where the program crashes, overruns its stack or takes too long."""
    toolchain.require(
        toolchain.SIMULATE[firmware.board.compiler],
        f"simulating {firmware.board.name}",
        "the C can be checked on this machine only",
    )
    place = machine(firmware.board)
    record = _record(firmware)

    def run(some: Pixels, first: int) -> Records:
        return np.frombuffer(_run(firmware, place, some, first, record.itemsize * firmware.rows, time_limit_s), record)

    records = in_chunks(run, pixels(firmware, images), progress, firmware.rows)
    return whole_images(records, instructions(records["ticks"], place.ticks_per_instruction), firmware.rows)


def instructions(
    ticks: npt.NDArray[np.uint32],  # exact, or one off
    per_instruction: Fraction,
) -> npt.NDArray[np.uint64]:
    """Return how many instructions the model took, its call and return included, without the one that reads the timer."""
    numerator, denominator = per_instruction.as_integer_ratio()
    return (2 * ticks.astype(np.uint64) * np.uint64(denominator) + np.uint64(numerator)) // np.uint64(2 * numerator) - np.uint64(
        1
    )


def core_cycles(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    time_limit_s: float = TIME_LIMIT_S,
) -> npt.NDArray[np.uint64] | None:  # (N,)
    """Return what inferences take by the manual of the core; None where it tells nothing, or this QEMU refuses the plugin.

    Raises FirmwareFault as ``simulate`` does.
    """
    timings, place = CORE_TIMINGS.get(firmware.board.core), machine(firmware.board)
    if timings is None:
        return None
    with toolchain.workspace() as folder:
        plugin, out = folder / "cycles.so", folder / "cycles"
        toolchain.run(["cc", "-std=c99", "-O2", *WARNINGS, "-shared", "-fPIC", "-fvisibility=hidden", PLUGIN, "-o", plugin])
        places = {"start": firmware.symbols["harness_call"], "stop": firmware.symbols["harness_return"]}
        arguments = [f"{name}={value}" for name, value in {**places, **timings}.items()]
        command = (*place.command, "-plugin", ",".join([str(plugin), f"out={out}", *arguments]))
        watched = dataclasses.replace(place, command=command)
        try:
            _run(firmware, watched, pixels(firmware, images), 0, _record(firmware).itemsize * firmware.rows, time_limit_s)
        except ToolchainError:  # it ran without the plugin: QEMU was built to take none, or takes those of later versions alone
            return None
        cycles: npt.NDArray[np.uint64] = np.fromfile(out, "<u8").reshape(-1, firmware.rows).sum(axis=1, dtype=np.uint64)
        return cycles


def _record(firmware: Firmware) -> np.dtype[np.void]:
    """What c/qemu_harness.c writes after every call of the model."""
    return np.dtype([("ticks", "<u4"), ("stack", "<u4"), ("logits", "<i2", (firmware.classes,))])


def _run(firmware: Firmware, place: Machine, images: Pixels, first: int, image_bytes: int, time_limit_s: float) -> bytes:
    """Run images through one process of QEMU."""
    with toolchain.workspace() as folder:
        (folder / "firmware.elf").write_bytes(firmware.elf)
        (folder / "images").write_bytes(images.tobytes())
        command = [*place.command, *OPTIONS, "-kernel", "firmware.elf"]
        where = f"on the simulated {place.name}"
        try:
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=time_limit_s
            )
        except subprocess.TimeoutExpired:
            image = first + _done(folder, image_bytes)
            raise FirmwareFault(
                f"image {image} {where}: {time_limit_s:g} s have passed, but the program is still running"
            ) from None
        except OSError as error:
            raise ToolchainError(f"{command[0]} cannot be run: {error.strerror}") from error
        if done.returncode == 0:
            return (folder / "records").read_bytes()
        reason = done.stderr.strip().partition("\n")[0] or f"it ended with status {done.returncode}"
        if done.returncode in FAULTS or done.returncode < 0:
            raise FirmwareFault(f"image {first + _done(folder, image_bytes)} {where}: {FAULTS.get(done.returncode, reason)}")
        raise ToolchainError(f"{command[0]} failed: {reason}")


def _done(folder: Path, image_bytes: int) -> int:
    """How many images have their records, of ``image_bytes``."""
    records = folder / "records"
    return records.stat().st_size // image_bytes if records.exists() else 0


def version(board: Board) -> str:
    """Return QEMU's version and the machine that stands for ``board``, for reports."""
    place = machine(board)
    return f"{toolchain.version(place.command[0])}, machine {place.name}"
