"""A larger network, trained on the same images, whose soft labels tell small ones more than the classes do.

N: training images.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch

from sparse_mcu.nn.folded import Float32Array
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import EPOCH_IMAGES, EVALUATION_BATCH, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

WIDTH = 32
BATCH = 64
# With fewer it knows next to nothing; with more, or with so many passes over the images, it learns next to nothing.
FEWEST_STEPS, MOST_STEPS, MOST_PASSES = 100, 10_000, 200
TIMED_STEPS = 8
FORWARD_SHARE = 1 / 3  # of the time of a step: that of its forward pass
LARGEST_MAP = 16  # of the first convolution: larger images are read in steps of more than one pixel
SMALLEST_MAP = 4  # that is pooled
SEED = 0


def teacher(
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    classes: int,
    steps: int,
    device: str = "cpu",
    deadline: float | None = None,
) -> Network:
    """Train a network that has no board to fit, four convolutions of 32 and 64 channels, for about ``steps``.

    After ``deadline`` (monotonic) no epoch begins.
    """
    epochs = max(2, round(steps * BATCH / min(len(images), EPOCH_IMAGES)))
    network = Network(_architecture(images.shape[1:], classes, epochs), SEED)
    train(network, images, labels, seed=SEED, device=device, deadline=deadline)
    return network


def affordable_steps(
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    classes: int,
    seconds: float,
    device: str = "cpu",
) -> int:
    """Return how many steps of a teacher fit into ``seconds`` here, and its logits for the images with them; 0: too few.

    Found out by making some.
    """
    few = slice(TIMED_STEPS * BATCH)
    network = Network(_architecture(images.shape[1:], classes, epochs=2), SEED)
    log = train(network, images[few], labels[few], seed=SEED, device=device)
    step_seconds = log.epochs[-1].seconds / math.ceil(len(labels[few]) / BATCH)
    steps = int(seconds / step_seconds - FORWARD_SHARE * len(images) / BATCH)
    return min(steps, most_steps(len(images))) if steps >= FEWEST_STEPS else 0


def most_steps(images: int) -> int:
    """Return how many steps are worth it where there are so many training images."""
    return max(FEWEST_STEPS, min(MOST_STEPS, MOST_PASSES * images // BATCH))


@torch.no_grad()
def logits(network: Network, images: npt.NDArray[np.uint8]) -> Float32Array:
    """Return the logits (N, classes) of ``network`` for ``images`` (N, C, H, W)."""
    device = next(network.parameters()).device
    batches = np.array_split(images, math.ceil(len(images) / EVALUATION_BATCH))
    return np.concatenate([network(torch.tensor(batch, device=device) / 255).cpu().numpy() for batch in batches])


def _architecture(shape: tuple[int, ...], classes: int, epochs: int) -> Architecture:
    """Return the teacher's architecture for images (C, H, W)."""
    channels, height, width = shape
    kernel = _pair(3 if extent > 1 else 1 for extent in (height, width))
    stride = _pair(math.ceil(extent / LARGEST_MAP) for extent in (height, width))
    extents = _pair(math.ceil(extent / step) for extent, step in zip((height, width), stride, strict=True))
    first = _pair(2 if extent >= SMALLEST_MAP else 1 for extent in extents)
    extents = _pair(extent // window for extent, window in zip(extents, first, strict=True))
    second = _pair(2 if extent >= SMALLEST_MAP else 1 for extent in extents)
    blocks = (
        Block((Conv("regular", kernel, WIDTH, stride=stride), Conv("regular", kernel, WIDTH)), pool=Pool("max", first)),
        Block((Conv("regular", kernel, 2 * WIDTH),), pool=Pool("max", second)),
        Block((Conv("regular", kernel, 2 * WIDTH),)),
    )
    training = Training(
        learning_rate=3e-3, batch_size=BATCH, epochs=epochs, dropout=0.2, augmentation=1.0, pruning=Pruning("none")
    )
    return Architecture((channels, height, width), classes, blocks, head=Head("flatten"), training=training)


def _pair(values: Iterable[int]) -> tuple[int, int]:
    height, width = values
    return height, width
