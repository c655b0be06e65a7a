"""What simulators have in common: they run the images of a firmware in chunks, a process each, and give records back."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparse_mcu.deploy.firmware import Firmware
from sparse_mcu.errors import SparseMcuError

CHUNK = 32  # images a process: progress moves, and the memory of a process stays small

Progress = Callable[[int, int], None]  # images done, images in all
Pixels = npt.NDArray[np.uint8]  # (n, H, W, C)
Records = npt.NDArray[np.void]  # (n,), of every call of the model: one for an image, or one for each of its rows


class FirmwareFault(SparseMcuError):
    """A simulated program that crashed, hung or overran its memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """What the board did with N images."""

    logits: npt.NDArray[np.int16]  # (N, classes)
    cycles: npt.NDArray[np.uint64]  # (N,), from the call of the model to its return; instructions where the board counts these
    stack_bytes: int  # deepest over all images


def whole_images(
    records: Records,  # (n * rows,), one for every call of the model: logits, stack
    cycles: npt.NDArray[np.uint64],  # (n * rows,)
    rows: int,  # calls that an image takes
) -> Simulation:
    """Return what the calls of the model amount to: of each image the logits of the last one, and the time of all."""
    logits = records["logits"][rows - 1 :: rows].copy()
    return Simulation(logits, cycles.reshape(-1, rows).sum(axis=1, dtype=np.uint64), int(records["stack"].max()))


def pixels(firmware: Firmware, images: npt.NDArray[np.uint8]) -> Pixels:
    """Return images (N, C, H, W) as the device reads them."""
    image_bytes = images[0].size if len(images) else 0
    if image_bytes != firmware.rows * firmware.input_bytes:
        raise ValueError(f"an image must have {firmware.rows} times {firmware.input_bytes} bytes, but {images.shape=}")
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def in_chunks(
    run: Callable[[Pixels, int], Records],  # of some images, and the number of the first, for messages
    images: Pixels,
    progress: Progress | None,
    rows: int,  # records of an image
) -> Records:
    """Run ``images``, a chunk for every processor at a time."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = []
        for result in pool.map(lambda first: run(images[first : first + CHUNK], first), range(0, len(images), CHUNK)):
            results.append(result)
            if progress is not None:
                progress(sum(map(len, results)) // rows, len(images))
    return np.concatenate(results)
