"""Runs a firmware in simavr, cycle by cycle: logits, exact cycles and the deepest stack of every image.

The runner (c/simavr_runner.c) is compiled on first use and kept in the user's cache directory.
"""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.firmware import Firmware
from sparse_mcu.deploy.simulation import FirmwareFault, Pixels, Progress, Records, Simulation, in_chunks, pixels, whole_images
from sparse_mcu.errors import ToolchainError

RUNNER_SOURCE = Path(__file__).with_name("c") / "simavr_runner.c"
RUNNER_OPTIONS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror")
HEADERS = ("sim_avr.h", "sim_core.h", "sim_elf.h")
FIRMWARE_FAULT = 3  # the runner's exit status where the program, not its use, is at fault
DATA_SPACE = 0x800000  # avr-gcc numbers data addresses from here, to tell them from flash
CYCLE_LIMIT = 2_000_000_000  # two minutes at 16 MHz


def simulate(
    firmware: Firmware,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    progress: Progress | None = None,
    cycle_limit: int = CYCLE_LIMIT,  # of one image
) -> Simulation:
    """Run every image; raise FirmwareFault where the program crashes, overruns its stack or takes more than ``cycle_limit``."""
    record = np.dtype([("cycles", "=u8"), ("stack", "=u4"), ("logits", "=i2", (firmware.classes,))])
    program = runner()
    with toolchain.workspace() as folder:
        elf = folder / "firmware.elf"
        elf.write_bytes(firmware.elf)
        command = _command(program, elf, firmware, cycle_limit)

        def run(some: Pixels, first: int) -> Records:
            return _run_chunk(command, some, first, record, firmware.rows)

        records = in_chunks(run, pixels(firmware, images), progress, firmware.rows)
    return whole_images(records, records["cycles"], firmware.rows)


def _command(program: Path, elf: Path, firmware: Firmware, cycle_limit: int) -> list[str]:
    places = firmware.symbols
    stack_floor = places["_end"] - DATA_SPACE  # first data address after the variables
    sizes = (firmware.input_bytes, firmware.rows, firmware.classes)
    numbers = (places["harness_start"], places["harness_stop"], stack_floor, *sizes, cycle_limit)
    return [str(program), firmware.board.mcu, str(elf), *map(str, numbers)]


def _run_chunk(
    command: list[str],
    images: Pixels,
    first: int,  # number of the first image, for messages
    record: np.dtype[np.void],
    rows: int,
) -> Records:
    """Run images through one process of the runner."""
    try:
        done = subprocess.run(command, input=images.tobytes(), capture_output=True)
    except OSError as error:
        raise ToolchainError(f"the simulator at {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode == 0:
        return np.frombuffer(done.stdout, dtype=record)
    reason = done.stderr.decode(errors="replace").strip() or f"the simulator ended with status {done.returncode}"
    if done.returncode == FIRMWARE_FAULT:
        image = first + len(done.stdout) // (record.itemsize * rows)
        raise FirmwareFault(f"image {image} on the simulated {command[1]}: {reason}")
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
