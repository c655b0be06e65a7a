"""The compilers and the simulator of this machine: found, run, or named with the Debian package that brings them."""

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_mcu.deploy.boards import Board
from sparse_mcu.errors import ToolchainError

COMPILE_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Part:
    """Something that must be installed: a command on PATH, or a header file in one of the usual places."""

    name: str
    package: str  # of Debian

    @property
    def present(self) -> bool:
        """Whether it is installed; nothing is run to find out."""
        if self.name.endswith(".h"):
            return find_header(self.name) is not None
        return shutil.which(self.name) is not None


HOST = (Part("cc", "gcc libc6-dev"),)
SIMAVR = (*HOST, Part("simavr/sim_avr.h", "libsimavr-dev"))  # the runner is compiled here


def _gcc(prefix: str, package: str, binutils: str) -> tuple[Part, ...]:
    return (Part(f"{prefix}gcc", package), Part(f"{prefix}nm", binutils), Part(f"{prefix}size", binutils))


# By the compiler of a board: what builds programs for it, and what runs them.
BUILD = {
    "avr-gcc": (*_gcc("avr-", "gcc-avr", "binutils-avr"), Part("avr/io.h", "avr-libc")),
    "arm-none-eabi-gcc": _gcc("arm-none-eabi-", "gcc-arm-none-eabi", "binutils-arm-none-eabi"),
    "riscv64-unknown-elf-gcc": _gcc("riscv64-unknown-elf-", "gcc-riscv64-unknown-elf", "binutils-riscv64-unknown-elf"),
}
SIMULATE = {
    "avr-gcc": SIMAVR,
    "arm-none-eabi-gcc": (Part("qemu-system-arm", "qemu-system-arm"),),
    "riscv64-unknown-elf-gcc": (Part("qemu-system-riscv32", "qemu-system-misc"),),
}


def binutil(board: Board, name: str) -> str:
    """Return the command ``name`` (nm, size, objdump) for programs of ``board``."""
    return board.compiler.removesuffix("gcc") + name


def find_header(name: str) -> Path | None:
    """Return the path of the header file ``name``, such as ``avr/io.h``, or None."""
    return next((folder / name for folder in _include_folders() if (folder / name).is_file()), None)


def _include_folders() -> list[Path]:
    """Where system headers lie, those of avr-libc included: it is installed beside avr-gcc's own prefix."""
    prefixes = [Path("/usr"), Path("/usr/local")]
    if avr_gcc := shutil.which("avr-gcc"):
        prefixes.append(Path(avr_gcc).resolve().parent.parent)
    named = [Path(folder) for folder in os.environ.get("C_INCLUDE_PATH", "").split(os.pathsep) if folder]
    return named + [prefix / inside for prefix in prefixes for inside in ("include", "lib/avr/include", "avr/include")]


def missing(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Return those of ``parts`` that are not installed."""
    return tuple(part for part in parts if not part.present)


def lack(parts: Iterable[Part], purpose: str, otherwise: str) -> str | None:
    """Return one line on what of ``parts`` is missing, the packages that bring it and what still works; None if all is there."""
    absent = missing(parts)
    if not absent:
        return None
    names = ", ".join(part.name for part in absent)
    packages = " ".join(dict.fromkeys(part.package for part in absent))
    verb = "is" if len(absent) == 1 else "are"
    return f"{purpose} needs {names}, which {verb} not installed; on Debian: apt-get install {packages}; without it {otherwise}"


def require(parts: Iterable[Part], purpose: str, otherwise: str) -> None:
    """Raise ToolchainError with ``lack``'s line if anything is missing."""
    line = lack(parts, purpose, otherwise)
    if line is not None:
        raise ToolchainError(line)


def obstacle(board: Board) -> str | None:
    """Return why programs for ``board`` cannot be simulated on this machine, in one line; None where they can."""
    if board.simulator is None:
        return f"no simulator is known for {board.core_title}; its C can be checked on this machine only"
    parts = (*BUILD[board.compiler], *SIMULATE[board.compiler])
    return lack(parts, f"simulating {board.name}", "the C can be checked on this machine only")


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """Yield a folder for what compilers read and write, removed afterwards; raise ToolchainError where the disk has no room."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="sparse-mcu-")
    except OSError as error:
        raise _no_room(error) from error
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _no_room(error) from error


def _no_room(error: OSError) -> ToolchainError:
    return ToolchainError(f"programs are built in a temporary folder, which cannot be written ({error.strerror}); set TMPDIR")


def run(command: Sequence[str | Path], timeout_s: float = COMPILE_TIMEOUT_S) -> str:
    """Run a compiler or one of its tools and return its output; raise ToolchainError with its first error line if it fails."""
    tool = Path(command[0]).name
    try:
        # The C locale keeps messages in English: _first_error looks for "error".
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{tool} must end within {timeout_s:g} s, but was still running; it was stopped") from None
    except OSError as error:
        raise ToolchainError(f"{tool} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise ToolchainError(f"{tool} failed with status {done.returncode}: {_first_error(done.stderr)}")
    return done.stdout


def _first_error(text: str) -> str:
    """The first line that speaks of an error, else the last line: linkers put the reason first, drivers a summary last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "undefined reference" in line]
    return (errors or lines[-1:] or ["it gave no reason"])[0]


def version(tool: str) -> str:
    """Return the first line of ``tool --version``, for reports."""
    return run([tool, "--version"]).partition("\n")[0].strip()
