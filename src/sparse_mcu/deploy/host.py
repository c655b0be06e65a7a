"""Generated C on this machine: compiled by cc, run as a program of its own."""

import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy import toolchain
from sparse_mcu.deploy.source import CSource
from sparse_mcu.errors import SparseMcuError

MAIN = Path(__file__).with_name("c") / "host_main.c"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TIMEOUT_S = 600


class HostFault(SparseMcuError):
    """Generated C that crashed, or that a sanitizer stopped."""


def host_logits(
    source: CSource,
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    sanitize: bool = False,  # stop at the first access or conversion that C does not define
) -> npt.NDArray[np.int16]:  # (N, classes)
    """Compile ``source`` for this machine and return what it says of ``images``; raise HostFault if it crashes."""
    toolchain.require(toolchain.HOST, "checking C on this machine", "the network runs in NumPy only")
    with toolchain.workspace() as folder:
        program = _compile(source, folder, SANITIZERS if sanitize else ())
        pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # the model reads (H, W, C)
        done = subprocess.run([program], input=pixels.tobytes(), capture_output=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0] or "it gave no reason"
        raise HostFault(f"the model's C must run on this machine, but ended with status {done.returncode}: {reason}")
    return np.frombuffer(done.stdout, np.int16).reshape(len(images), -1)


def _compile(source: CSource, folder: Path, options: tuple[str, ...]) -> Path:
    header, model = source.write(folder)
    program = folder / "model"
    compiler = ("cc", "-std=c99", "-O2", *WARNINGS, *options)
    toolchain.run([*compiler, "-include", header, *source.main_options, MAIN, model, "-o", program])
    return program
