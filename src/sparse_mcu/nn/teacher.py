"""A larger network, trained on the same images, whose soft labels tell small ones more than the classes do.

N: training images.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sparse_mcu.nn.folded import Float32Array
from sparse_mcu.nn.network import Network
from sparse_mcu.nn.train import EPOCH_IMAGES, EVALUATION_BATCH, Images, accuracy, train
from sparse_mcu.space.architecture import Architecture, Block, Conv, Head, Pool, Pruning, Training

WIDTH = 32
BATCH = 64
# With fewer it knows next to nothing; with more, or with so many passes over the images, it learns next to nothing.
FEWEST_STEPS, MOST_STEPS, MOST_PASSES = 100, 10_000, 200
TIMED_STEPS, TIMED_EPOCHS = 8, 4  # the first warms up; of the others the fastest counts: other programs slow some down
FORWARD_SHARE = 1 / 3  # of the time of a step: that of its forward pass
# Of the first convolution: larger images are read in steps of more than one pixel. Within the same time coarse maps teach more
# where it is not enough for LONG steps with fine ones.
COARSE_MAP, FINE_MAP = 16, 32
LONG = 3_000  # steps
SMALLEST_MAP = 4  # that is pooled
MIRROR_STEPS = 750  # of the network that is asked about mirror images
# Classes survive mirroring where it costs at most this share of what a network knows beyond the largest class.
MIRROR_LOSS = 0.1
SEED = 0


@dataclass(frozen=True, slots=True)
class Effort:
    """What a teacher is worth: how many steps it trains for, and whether it reads large images finely."""

    steps: int
    fine: bool

    @classmethod
    def of(cls, steps: int) -> "Effort":
        """Return the effort of a number of steps, however long each takes."""
        return cls(steps, fine=steps >= LONG)

    @property
    def is_long(self) -> bool:
        """Whether it is worth finding out first what images may be turned into."""
        return self.steps >= LONG


def teacher(
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    classes: int,
    effort: Effort,
    device: str = "cpu",
    deadline: float | None = None,
    *,
    mirrored: bool = False,
) -> Network:
    """Train a network that has no board to fit, four convolutions of 32 and 64 channels, for about as many steps as said.

    After ``deadline`` (monotonic) no epoch begins. ``mirrored``: on mirror images too.
    """
    epochs = max(2, round(effort.steps * BATCH / min(len(images), EPOCH_IMAGES)))
    network = Network(_architecture(images.shape[1:], classes, epochs, effort.fine), SEED)
    train(network, images, labels, seed=SEED, device=device, deadline=deadline, mirrored=mirrored)
    return network


def affordable(
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    classes: int,
    seconds: float,
    device: str = "cpu",
) -> Effort:
    """Return the effort that fits into ``seconds`` here, the teacher's logits for the images with it; 0 steps: too little.

    Found out by making some steps.
    """

    def steps(*, fine: bool) -> int:
        few = slice(TIMED_STEPS * BATCH)
        network = Network(_architecture(images.shape[1:], classes, TIMED_EPOCHS, fine), SEED)
        log = train(network, images[few], labels[few], seed=SEED, device=device)
        step_seconds = min(epoch.seconds for epoch in log.epochs[1:]) / math.ceil(len(labels[few]) / BATCH)
        fitting = int(seconds / step_seconds - FORWARD_SHARE * len(images) / BATCH)
        return min(fitting, most_steps(len(images))) if fitting >= FEWEST_STEPS else 0

    finely = steps(fine=True)
    if finely >= LONG or max(images.shape[2:]) <= COARSE_MAP:  # small images are read pixel by pixel either way
        return Effort.of(finely)
    return Effort(steps(fine=False), fine=False)


def keeps_classes_mirrored(
    images: npt.NDArray[np.uint8],  # (N, C, H, W)
    labels: npt.NDArray[np.int64],  # (N,)
    held_out: Images,
    classes: int,
    device: str = "cpu",
) -> bool:
    """Say whether an image and its mirror image, left and right turned round, show the same class.

    They do where a network that was trained without mirror images gets about as many of them right.
    """
    network = teacher(images, labels, classes, Effort(MIRROR_STEPS, fine=False), device)
    right = accuracy(network, held_out)
    lost = right - accuracy(network, Images(held_out.images.flip(3), held_out.labels))
    known = right - float(held_out.labels.bincount().max()) / len(held_out)
    return known > 0 and lost <= MIRROR_LOSS * known


def most_steps(images: int) -> int:
    """Return how many steps are worth it where there are so many training images."""
    return max(FEWEST_STEPS, min(MOST_STEPS, MOST_PASSES * images // BATCH))


@torch.no_grad()
def logits(network: Network, images: npt.NDArray[np.uint8]) -> Float32Array:
    """Return the logits (N, classes) of ``network`` for ``images`` (N, C, H, W)."""
    device = next(network.parameters()).device
    batches = np.array_split(images, math.ceil(len(images) / EVALUATION_BATCH))
    return np.concatenate([network(torch.tensor(batch, device=device) / 255).cpu().numpy() for batch in batches])


def _architecture(shape: tuple[int, ...], classes: int, epochs: int, fine: bool) -> Architecture:
    """Return the teacher's architecture for images (C, H, W)."""
    channels, height, width = shape
    kernel = _pair(3 if extent > 1 else 1 for extent in (height, width))
    stride = _pair(math.ceil(extent / (FINE_MAP if fine else COARSE_MAP)) for extent in (height, width))
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
