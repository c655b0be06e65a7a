"""Runs a firmware in simavr, cycle by cycle: logits, exact cycles and the deepest stack of every image.

The runner (c/simavr_runner.c) is compiled on first use and kept in the user's cache directory.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.firmware import Firmware
from sparse_mcu.errors import SparseMcuError, ToolchainError

RUNNER_SOURCE = Path(__file__).with_name("c") / "simavr_runner.c"
RUNNER_OPTIONS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")
HEADERS = ("sim_avr.h", "sim_core.h", "sim_elf.h")
FIRMWARE_FAULT = 3  # the runner's exit status where the program, not its use, is at fault
CYCLE_LIMIT = 2_000_000_000  # two minutes at 16 MHz
CHUNK = 32  # images a process: progress moves, and the memory of a process stays small

Progress = Callable[[int, int], None]  # images done, images in all


class FirmwareFault(SparseMcuError):
    """A simulated program that crashed, hung or overran its memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """What the board did with N images."""

    logits: npt.NDArray[np.int16]  # (N, classes)
    cycles: npt.NDArray[np.uint64]  # (N,), from the call of the model to its return
    stack_bytes: int  # deepest over all images


def simulate(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    progress: Progress | None = None,
    cycle_limit: int = CYCLE_LIMIT,  # of one image
) -> Simulation:
    """Run every image; raise FirmwareFault where the program crashes, overruns its stack or takes more than ``cycle_limit``."""
    image_bytes = images[0].size if len(images) else 0
    if image_bytes != firmware.input_bytes:
        raise ValueError(f"an image must have {firmware.input_bytes} bytes, but {images.shape=}")
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # the device reads (H, W, C)
    record = np.dtype([("cycles", "=u8"), ("stack", "=u4"), ("logits", "=i2", (firmware.classes,))])
    program = runner()
    with toolchain.workspace() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        elf = folder / "firmware.elf"
        elf.write_bytes(firmware.elf)
        command = _command(program, elf, firmware, cycle_limit)

        def run(first: int) -> npt.NDArray[np.void]:
            return _run_chunk(command, pixels[first : first + CHUNK], first, record)

        results = []
        for result in pool.map(run, range(0, len(pixels), CHUNK)):
            results.append(result)
            if progress is not None:
                progress(sum(map(len, results)), len(pixels))
    whole = np.concatenate(results)
    return Simulation(whole["logits"].copy(), whole["cycles"].copy(), int(whole["stack"].max()))


def _command(program: Path, elf: Path, firmware: Firmware, cycle_limit: int) -> list[str]:
    numbers = (firmware.start, firmware.stop, firmware.stack_floor, firmware.input_bytes, firmware.classes, cycle_limit)
    return [str(program), firmware.mcu, str(elf), *map(str, numbers)]


def _run_chunk(
    command: list[str],
    pixels: npt.NDArray[np.uint8],  # (n, H, W, C)
    first: int,  # number of the first image, for messages
    record: np.dtype[np.void],
) -> npt.NDArray[np.void]:  # (n,)
    """Run images through one process of the runner."""
    try:
        done = subprocess.run(command, input=pixels.tobytes(), capture_output=True)
    except OSError as error:
        raise ToolchainError(f"the simulator at {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode == 0:
        return np.frombuffer(done.stdout, dtype=record)
    reason = done.stderr.decode(errors="replace").strip() or f"the simulator ended with status {done.returncode}"
    if done.returncode == FIRMWARE_FAULT:
        raise FirmwareFault(f"image {first + len(done.stdout) // record.itemsize} on the simulated {command[1]}: {reason}")
    raise ToolchainError(reason)


def runner() -> Path:
    """Return the compiled runner, building it if the cache has none for this source and this simavr."""
    toolchain.require(toolchain.SIMAVR, "simulating an AVR", "the C can be checked on this machine only")
    program = _cache_folder() / f"simavr_runner-{_runner_key()}"
    if not program.exists():
        _build_runner(program)
    return program


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse-mcu"


def _runner_key() -> str:
    """Changes with the runner and with the layout of the library's structures, which its headers say."""
    key = hashlib.sha256(RUNNER_SOURCE.read_bytes())
    for name in HEADERS:
        header = toolchain.find_header(f"simavr/{name}")
        assert header is not None, "runner() has required simavr's headers"
        key.update(header.read_bytes())
    return key.hexdigest()[:16]


def version() -> str:
    """Return the simulator's name and version, for reports; the library itself does not say which it is."""
    library = Path(toolchain.run(["cc", "-print-file-name=libsimavr.so"]).strip())
    package = library.parent / "pkgconfig" / "simavr.pc"
    lines = package.read_text(encoding="utf-8").splitlines() if package.is_file() else []
    return next((f"simavr {line.split()[1]}" for line in lines if line.startswith("Version:")), "simavr of unknown version")


def _build_runner(program: Path) -> None:
    """Compile beside ``program``, then rename: two processes at once both leave a whole file."""
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=program.parent) as folder:
            built = Path(folder) / program.name
            toolchain.run(["cc", *RUNNER_OPTIONS, RUNNER_SOURCE, "-o", built, "-lsimavr"])
            built.replace(program)
    except OSError as error:
        raise ToolchainError(
            f"the simulator is kept in {program.parent}, which cannot be written ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
